"""The GPUs of this machine: which there are, and what a container needs to use one.

`nvml` asks NVIDIA's library, `gpus` names the devices (or pretends some, where the operator says so), `cdi` reads what
the container toolkit has written down about them, `driver` finds the same without it, `edits` is what both come to.
"""
