"""DeltaMask: Tsouvalas, Asano, Saeed, Federated Fine-Tuning of Foundation Models via Probabilistic Masking, arXiv
2311.17299. What both sides need of it stands in `common.codecs`, `common.aggregation` and `common.downlink`.
"""
