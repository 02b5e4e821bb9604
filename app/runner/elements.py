"""The workflow elements of a standard data set (contract, section 4). Imports nothing: the API needs it too."""

SPECIFIC = "specific.py"
"""The organiser's code of a custom data set (contract, section 3), which has words of its own for elements."""

CLASSES = {
    "feature_extractor": "FeatureExtractor",
    "classifier": "Classifier",
    "calibrator": "Calibrator",
    "regressor": "Regressor",
}
"""Workflow element -> the class that the file of that name defines."""


def parse_elements(text: str) -> tuple[str, ...]:
    """The workflow elements of a standard data set, in order: 'feature_extractor, classifier' -> a tuple.

    Raises ValueError, with what would be right, for anything that the runner can't execute.
    """
    elements = tuple(word.strip() for word in text.split(","))
    if unknown := [word for word in elements if word not in CLASSES]:
        raise ValueError(f"unknown workflow element {unknown[0]!r}: use {', '.join(CLASSES)}, comma-separated")
    if len(set(elements)) < len(elements):
        raise ValueError("each workflow element may stand once")
    if ("classifier" in elements) == ("regressor" in elements):
        raise ValueError("a workflow has either a classifier or a regressor")
    if "calibrator" in elements and "classifier" not in elements:
        raise ValueError("a calibrator needs a classifier before it")
    if list(elements) != [name for name in CLASSES if name in elements]:
        raise ValueError(f"workflow elements stand in this order: {', '.join(CLASSES)}")
    return elements
