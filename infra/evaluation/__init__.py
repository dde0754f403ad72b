"""Evaluate models on examples: read the examples, ask the models, score the answers, compare, report.

    examples     what to ask, and the expected answers
    metrics      score one answer
    judge        let another model score the answers
    asking       get the answers of every model, a number of them at once
    store        keep answers on disk, so that an interrupted evaluation can be resumed
    statistics   confidence intervals, and paired comparisons
    results      the results as values, as text and as JSON
    requirements what the results must reach
    report       the results as one HTML file

Nothing here knows Azure: a model is an address of an OpenAI-compatible server and a name.
"""
