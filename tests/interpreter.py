"""Triton's interpreter, without the work it repeats.

Every call of a `triton.jit` function from another one puts the interpreter's operations into
triton.language again, 2 ms each time, although those of the launch are still there. Here it is done
once per launch for each module that a kernel is made of. Nothing else changes, and a Triton whose
interpreter looks different inside is left as it is.
"""

import functools


def patch_once_per_launch() -> None:
    try:
        from triton.runtime import interpreter
    except ImportError:  # Triton is optional
        return
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
