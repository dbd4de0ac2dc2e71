"""DeltaMask under local differential privacy: randomised response on mask bits, and who counts what it has cost.

Not of the paper, which leaves privacy open; docs/security.md says what is guaranteed, and at what price.
"""
