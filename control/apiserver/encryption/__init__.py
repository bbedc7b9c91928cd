"""Encryption at rest: what is stored is what kube-apiserver would store under the same EncryptionConfiguration.

``configuration`` reads the file, ``ciphers`` and ``envelope`` turn bytes into bytes, ``transformers`` choose between
them, ``kms`` talks to a plugin, ``store`` is the store's door with all of that behind it, ``reload`` follows the file.
"""
