"""Standard formats for the footprint of a model. Each is a pure function of the facts about one run, which measures and guesses nothing.

    RunFacts -> describe_model -> ModelFacts     (model_facts.py: the facts that all formats need)
    ModelFacts -> eu_gpai, cyclonedx, spdx, sci, boamps

Required information that a run does not have is listed as a gap. Unless `full`, no format contains host names, paths or command lines.
"""
