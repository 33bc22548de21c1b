"""Standard formats for the footprint of a model, each a pure function of the facts of one run; nothing is measured or guessed here.

    RunFacts -> describe_model -> ModelFacts     (model_facts.py: the facts that all formats need)
    ModelFacts -> eu_gpai, cyclonedx, spdx, sci, boamps

Required information that a run does not have is listed as a gap. Without `full`, no format contains host names, paths or command lines.
"""
