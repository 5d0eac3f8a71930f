"""The recording as a function of a model and of what runs it once."""

from isingmoe.capturing import recorded


def judged(model, run):
    """Expert ids and weights of one call of each site, by the site's label."""
    with recorded(model) as recorder:
        run()
        calls = recorder.take()
    return {call.site.label: (call.expert_index, call.gate_weight) for call in calls}
