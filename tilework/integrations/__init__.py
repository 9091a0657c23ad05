"""Where tilework plugs into other libraries, each through the plug-in point that the library offers."""
