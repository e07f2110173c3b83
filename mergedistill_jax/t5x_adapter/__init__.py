"""The project inside T5X: the only part that imports it.

    student.py    the student as a T5X model: loss, metrics, predictions, initial parameters with their axes
    annealing.py  T5X's trainer, whose steps tell the loss the weight of the gold labels
    datasets.py   records as T5X's datasets: through SeqIO, or exactly the batches of `mergedistill train`
    fills.py      masks of a text file, filled in by t5x.infer
    tagging.py    the fine-tuned tagger as a T5X model

The bindings are in gin/t5x. T5X is not on the Python package index; README.md says how it is installed.
"""
