"""`popfax doctor`: asks everything that the product consists of how it is, and says what to do first.

`questions` asks (in parallel, for a bounded time), `judging` makes findings of the answers and does nothing else,
`findings` says what each finding means and what to type next, `screen` shows them.
"""
