"""The local cloud: the part of Azure that Fjarr touches, served over HTTPS on loopback.

The real ``az`` and the real Azure SDK drive it. It imports nothing of the other packages: they meet only
over the wire. Operations that it does not emulate are rejected with 501 `NotImplementedByLocalCloud`.
"""
