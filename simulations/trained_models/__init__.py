"""Small Mixture-of-Experts models of real text, trained once for all the studies that want them."""
