"""Every setting of every verb, declared once: name, type, default, range and help.

The command line's options, the keyword arguments of the library, the schema of presets and the documentation are made from these classes.
Nothing heavy is imported here, because `alibi --help` reads them.
"""
