"""Configuration, by section: a class of keys stands beside the thing that it configures, and `common.config.run` puts
the classes together into the flat run config that Flower knows.

``section`` is what every section is, ``shared`` has the keys that every run has, ``node`` those of a SuperNode.
"""
