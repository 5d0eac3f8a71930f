"""How to read a report, for who has not read the theory."""

from __future__ import annotations

__all__ = ["READING"]

READING = (
    (
        "The picture",
        "Read along a text, the experts that a router chooses are a chain of spins. A chain whose "
        "tokens know their neighbours alone has a short memory: its correlations fall "
        "exponentially, with one length ξ that its couplings fix. The report fits such a chain to "
        "every layer and asks whether it gives what is measured.",
    ),
    (
        "C(d)",
        "How much more often than by chance the same expert is at work d tokens apart, summed over "
        "experts. About the global mean, a difference in load between texts looks like a "
        "correlation that does not decay; about the mean of each text it is gone. A drift along "
        "the text, common to all of them, outlives that mean and is gone about the mean at each "
        "position. What outlives both is coupling, or topics that change inside a text. Bands are "
        "95 % by a bootstrap over texts.",
    ),
    (
        "p chain",
        "The share of data sets, simulated from the fitted chain and fitted again, that lie "
        "as far from their fit as the data do. Small: a chain of this reach is not what routes "
        "these tokens, or texts differ in load, or rates drift: about the global mean all of these "
        "speak against it. It cannot be smaller than one over the number of data sets and one; "
        "where that is too large to call anything after control over the layers, the verdict says "
        "that the simulations are too few. A chain that is not rejected is not shown to be right.",
    ),
    (
        "p Markov",
        "The Chapman-Kolmogorov test asks the same without a fit: whether the chance to return "
        "after d tokens is that of d single steps.",
    ),
    (
        "Decay laws",
        "Five laws are fitted with the covariance of the bootstrap and ranked by Akaike's "
        "criterion; weights sum to one. A weight says which law is best of the five, the p-value "
        "whether it is good: the best of five can be bad, and is marked † then.",
    ),
    (
        "MEM",
        "A router in maximum-entropy equilibrium loads all experts alike. The load's distance "
        "from that is a Kullback-Leibler divergence, corrected for the bias of few tokens and "
        "set beside what chance gives.",
    ),
    (
        "Many layers",
        "With many layers some p-values are small by chance. The words of the verdicts keep the "
        "rate of false discoveries at 5 % over the layers; the table has the plain p-values.",
    ),
)
