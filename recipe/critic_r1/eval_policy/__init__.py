"""The policy on public benchmarks, measured by the field's own tool.

Scores of our own making would compare with nobody's. So the benchmarks, their prompts and their metrics are those of
lmms-eval, in an environment of its own (environment.py), asked to do what a suite names (suites.py, suites/*.yaml). Of
ours is only what a model that thinks needs: the instruction that it was trained with, and its final answer in place of
its thoughts (tool_side/). What the tool reports comes back as figures with intervals (results.py).

Everything in tool_side/ runs in the environment of the tool and imports nothing of ours.
"""
