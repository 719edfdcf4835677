"""Pictures on disk, and a row for each.

``store`` is the gallery itself. Below it: ``table`` (the rows), ``files`` (the folder), ``search``, ``scan`` (files
that came or went by hand), ``thumbnails``, ``export``; and of pictures alone ``formats``, ``foreign`` (how other tools
say how a picture was made) and ``replay``.
"""
