"""How the starter models are made: data, models, loops and scores. Needs the extra ``train``; see
docs/starter-models.md."""
