// What is looked at on the page, each by its name.
({
  // Blocks of the page, figures and rows of a table that lie on each other.
  siblings() {
    const clash = [];
    const check = (elements, what) => {
      const boxes = elements.map((e) => [e, e.getBoundingClientRect()])
        .filter(([, box]) => box.width && box.height);
      boxes.forEach(([e, a], i) => boxes.slice(i + 1).forEach(([f, b]) => {
        const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (w > 1 && h > 1) {
          clash.push(`${what}: ${e.outerHTML.slice(0, 80)} on ${f.outerHTML.slice(0, 80)}`);
        }
      }));
    };
    check([...document.querySelectorAll("main > *")], "sections");
    const parents = "section, details, figure, .figures, dl, tr, tbody";
    for (const parent of document.querySelectorAll(parents)) {
      check([...parent.children], parent.tagName);
    }
    return clash;
  },

  // Words of a figure that lie on each other by more than a quarter of the smaller.
  letters() {
    const clash = [];
    for (const svg of document.querySelectorAll("svg.figure")) {
      const words = [...svg.querySelectorAll("text")]
        .map((text) => [text.textContent, text.getBoundingClientRect()])
        .filter(([, box]) => box.width && box.height);
      words.forEach(([s, a], i) => words.slice(i + 1).forEach(([t, b]) => {
        const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        const small = Math.min(a.width * a.height, b.width * b.height);
        if (w > 0 && h > 0 && w * h > 0.25 * small) {
          clash.push(`${svg.getAttribute("aria-label").slice(0, 30)}: ${s} on ${t}`);
        }
      }));
    }
    return clash;
  },

  // Words of a figure that its frame cuts off.
  cut() {
    const lost = [];
    for (const svg of document.querySelectorAll("svg.figure")) {
      const frame = svg.getBoundingClientRect();
      for (const text of svg.querySelectorAll("text")) {
        const box = text.getBoundingClientRect();
        const inside = box.left > frame.left - 2 && box.right < frame.right + 2
          && box.top > frame.top - 2 && box.bottom < frame.bottom + 2;
        if (!inside) lost.push(`${svg.getAttribute("aria-label").slice(0, 30)}: ${text.textContent}`);
      }
    }
    return lost;
  },

  // Whatever is wider than the screen, but for the table that scrolls.
  wide() {
    return [...document.querySelectorAll("body *")].filter((e) => {
      const box = e.getBoundingClientRect();
      return !e.closest(".scroll > *") && (box.right > innerWidth + 0.5 || box.left < -0.5);
    }).map((e) => e.outerHTML.slice(0, 100));
  },

  // Text with less contrast to its ground than WCAG 2 asks for.
  pale() {
    const light = (colour) => {
      const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map((v) => Number(v) / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (e) => {
      for (; e; e = e.parentElement) {
        const colour = getComputedStyle(e).backgroundColor;
        if (colour !== "rgba(0, 0, 0, 0)") return colour;
      }
      return "rgb(255, 255, 255)";
    };
    const poor = [];
    const written = "h1, h2, p, li, dt, dd, td, th, summary, figcaption, a, pre, code, svg text";
    for (const e of document.querySelectorAll(written)) {
      const style = getComputedStyle(e);
      const [a, b] = [light(e.closest("svg") ? style.fill : style.color), light(ground(e))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) poor.push(`${contrast.toFixed(2)} ${e.outerHTML.slice(0, 80)}`);
    }
    return poor;
  },

  // Of every figure: width, height, marks with an extent, words.
  ink() {
    return [...document.querySelectorAll("svg.figure")].map((svg) => {
      const box = svg.getBoundingClientRect();
      const drawn = [...svg.querySelectorAll("path, use, image")].filter((e) => {
        const mark = e.getBoundingClientRect();
        return mark.width + mark.height > 0;
      });
      return [box.width, box.height, drawn.length, svg.querySelectorAll("text").length];
    });
  },

  // Sizes of the letters of figures on the screen, in pixels.
  sizes() {
    return [...document.querySelectorAll("svg.figure text")].map((text) => {
      const svg = text.closest("svg");
      const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
      return scale * parseFloat(getComputedStyle(text).fontSize);
    });
  },
})
