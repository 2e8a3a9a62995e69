"""The web studio at /studio: pages on which people use the service without knowing its API.

It is part of the front door because it composes rooms that do not know each other (the service's routes, the library,
the sprite world), as the commands do. Its pages show what the API offers; what they request goes through the API's own
routes, which are mounted a second time below /studio/api, where a session's cookie counts.
"""
