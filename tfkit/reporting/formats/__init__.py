"""The forms of a model's footprint that others define, each a pure function of the facts of one run: nothing is measured or guessed here.

    RunFacts -> describe_model -> ModelFacts     (model_facts.py: what all forms need)
    ModelFacts -> eu_gpai, cyclonedx, spdx, sci, boamps

What a form asks for and a run does not know is named as a gap. Host names, paths and command lines are in none of them without `full`.
"""
