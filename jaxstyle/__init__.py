"""Neural style transfer as a functional JAX system.

Public names are listed in `__init__.pyi` and imported when first used, so that a command that needs
no JAX does not wait for it.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
