"""Programs built from the package, run from the repository's root: `python -m apps.train --help`.

They are not installed: each is one small module on top of `cifar_utils`.
"""
