"""Triton's interpreter, without the work it repeats, and with less work to do.

Every call of a `triton.jit` function from another one puts the interpreter's operations into
triton.language again, 2 ms each time, although those of the launch are still there. Here it is done
once per launch for each module that a kernel is made of. A Triton whose interpreter looks different
inside is left as it is.

A round of a loop takes as long for few columns as for many, so small problems, whose points are
looked up lane by lane, have 16 columns in a round and not 4.
"""

import functools


def quicken() -> None:
    try:
        from triton.runtime import interpreter
    except ImportError:  # Triton is optional
        return
    from dmmd_kernels.backends._triton import launch as sweeps

    sweeps._GATHERED = 16
    patch, launch = getattr(interpreter, "_patch_lang", None), interpreter.GridExecutor.__call__
    if patch is None:
        return
    patched: set[int] = set()

    def patch_module(fn):
        module = id(fn.__globals__)
        if module not in patched:
            patched.add(module)
            return patch(fn)

    @functools.wraps(launch)
    def launched(*args, **kwargs):
        patched.clear()
        return launch(*args, **kwargs)

    interpreter._patch_lang = patch_module
    interpreter.GridExecutor.__call__ = launched


def use_tensor_cores_for_few_points() -> None:
    """As for many: what they would be too slow for is what is to be looked at."""
    from dmmd_kernels.backends._triton import fused

    fused.LEAST_WORK = 0
