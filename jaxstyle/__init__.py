"""Neural style transfer as a functional JAX system.

Public names are listed in `__init__.pyi` and imported on first use, so that commands that do not
need JAX start without it.
"""

import lazy_loader

__version__ = "0.2.0.dev0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
