"""Scores of generated reports as the caption toolkit computes them, its Java programs included.

    pycocoevalcap.py PAIRS OUTPUT

PAIRS is a JSON list of pairs, a hypothesis and its reference. OUTPUT gets, as JSON, the texts as the toolkit's tokenizer splits
them, each score of all texts and of each, and the seconds of each part.
"""
import contextlib, json, sys, time

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

source, output = sys.argv[1:]
pairs = json.load(open(source))
seconds, corpus, each = {}, {}, {}


def timed(name, work):
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        result = work()
    seconds[name] = time.perf_counter() - start
    return result


def split(side):
    return PTBTokenizer().tokenize({place: [{"caption": pair[side]}] for place, pair in enumerate(pairs)})


hypotheses, references = timed("words", lambda: (split(0), split(1)))
scorers = {
    "BLEU": lambda: Bleu(4).compute_score(references, hypotheses),
    "METEOR": lambda: Meteor().compute_score(references, hypotheses),
    "ROUGE-L": lambda: Rouge().compute_score(references, hypotheses),
    "CIDEr": lambda: Cider().compute_score(references, hypotheses),
}
for name, scorer in scorers.items():
    score, scores = timed(name, scorer)
    for order, (value, values) in enumerate(zip(score, scores)) if name == "BLEU" else [(None, (score, scores))]:
        full = name if order is None else f"{name}-{order + 1}"
        corpus[full], each[full] = float(value), [float(value) for value in values]
texts = lambda split: [split[place][0] for place in range(len(pairs))]
json.dump(
    {
        "hypotheses": texts(hypotheses),
        "references": texts(references),
        "corpus": corpus,
        "each": each,
        "seconds": seconds,
    },
    open(output, "w"),
)
