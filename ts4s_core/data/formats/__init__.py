"""One module a data format; :mod:`ts4s_core.data.sources` chooses among them."""
