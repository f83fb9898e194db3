"""The statistics behind every verdict: pure functions over numbers, which know no ledger.

One comparison at a time (`inference`), its noise learned from the sweep (`moderation`), many claims at once
(`multiplicity`, `claims`), looks at a sweep that is not over (`looks`), how many trials it takes (`power`), models of
what explains a speedup (`regression`), and when step times keep one level (`steady`). `estimate` is the form in which
a number leaves.
"""
