"""Run strangers' Python code: a fold costs a fork, and sees nothing but its own data.

Who is trusted, from the outside in (docs/sandbox.md has the reasons):

    supervisor   trusted, outside      executor slots launch cgroups selftest seccomp
    zygote       trusted, inside       zygote watch meter       (a custom data set's: the organiser's)
    fold         hostile, confined     confine, then work

`wire` and `kernel` are used on all sides. Nothing here reads a pickle that a fold has written.
Import Executor from runner.sandbox.executor; this package itself imports nothing, for the zygote's sake.
"""
