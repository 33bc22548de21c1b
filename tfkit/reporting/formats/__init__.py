"""Standard formats for the footprint of a model. Each is a pure function of the facts about one run, and measures and guesses nothing.

    RunFacts -> describe_model -> ModelFacts     (model_facts.py: the facts that all formats need)
    ModelFacts -> eu_gpai, cyclonedx, spdx, sci, boamps

`ModelFacts.gaps` lists required information that a run does not have. Unless `full`, no format contains host names, paths or command lines.
"""
