"""The statistics behind every verdict: pure functions over numbers, without knowledge of ledgers.

One comparison at a time (`inference`), its noise learned from the sweep (`moderation`), many claims at once
(`multiplicity`, `claims`), looks at an unfinished sweep (`looks`), the number of trials needed (`power`), models that
explain speedups (`regression`), and when step times reach one level (`steady`). Results have the form of `estimate`.
"""
