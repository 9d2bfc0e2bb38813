"""The helper package of *Small Pictures, Deep Networks*.

One direction: data on disk → `data` → batches → `models` → `training` → history → `plots`;
`runs` picks the budget and records. Import the module you need: `from cifar_utils import data`.
"""
