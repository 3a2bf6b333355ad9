"""The door for agents: tools and resources of the Model Context Protocol, over stdio and streamable HTTP.

Nothing here is imported before it is asked for: the protocol's library alone takes half a second of a processor.
"""
