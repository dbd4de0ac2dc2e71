"""FedAvg: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, arXiv 1602.05629:
float32 weights as they travel.
"""
