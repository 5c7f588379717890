"""Sparse in one shot: no labels and no training, a thousand images and minutes.

``calibrate`` looks at what every layer reads, ``criteria`` score weights, a budget chooses how many
each layer keeps, ``refit`` lets the kept weights take over, ``statistics`` corrects BatchNorm.
"""
