"""A fuzzer of everything that reads bytes from outside: ``python -m tests.fuzz``.

A *target* is a decoder, and has *cases*: receivers that know a theta, a size, a round, with what they were honestly
sent. An *input* is what a mutation makes of that; it follows from the run's seed, the target's name and its number, so
that any one of them can be made again alone. Whatever it is, a receiver takes it or refuses it by the error that it
documents; the rest is a *finding*.

* `tests.fuzz.mutations`: bytes to other bytes
* `tests.fuzz.payloads`, `thetas`, `heads`, `records`, `checkpoints`: the cases
* `tests.fuzz.judge`: what becomes of one input, in which time
* `tests.fuzz.memory`: the most memory that some inputs took
* `tests.fuzz.run`: all targets in turn
* `tests.fuzz.report`, `tests.fuzz.findings`: what is shown and kept
"""
