"""Words as NLTK splits them, and scores as the caption toolkit computes them.

    nltk.py PUNKT TEXTS OUTPUT COUNT

PUNKT holds the parameters of the English sentence splitter, TEXTS a JSON list of texts. OUTPUT gets, for each text, its words
joined by blanks in lower case; for each text beside the next one BLEU-1 to 4 and ROUGE-L; BLEU of all of them; and for the last
COUNT texts, a corpus of their own, NLTK's smoothed BLEU-2 and CIDEr.
"""
import json, sys

from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

punkt, texts, output, count = sys.argv[1:]
stored = json.load(open(punkt))
parameters = PunktParameters()
parameters.abbrev_types = set(stored["abbrev_types"])
parameters.sent_starters = set(stored["sent_starters"])
parameters.collocations = {tuple(pair) for pair in stored["collocations"]}
parameters.ortho_context.update(stored["ortho_context"])
sentences, treebank = PunktSentenceTokenizer(parameters), NLTKWordTokenizer()


def words(text):
    return " ".join(word for sentence in sentences.tokenize(text) for word in treebank.tokenize(sentence)).lower()


split = [words(text) for text in json.load(open(texts))]
pairs = list(zip(split, split[1:] + split[:1]))
bleu, rouge = BleuScorer(n=4), Rouge()
for candidate, reference in pairs:
    bleu += (candidate, [reference])
last, cider = pairs[-int(count):], CiderScorer()
for candidate, reference in last:
    cider += (candidate, [reference])
smooth = SmoothingFunction().method1
corpus, each = bleu.compute_score(option="closest", verbose=0)
json.dump(
    {
        "words": split,
        "bleu": [list(scores) for scores in zip(*each)],
        "corpus": list(corpus),
        "rouge": [rouge.calc_score([candidate], [reference]) for candidate, reference in pairs],
        "cider": list(cider.compute_score()[1]),
        "bleu_2": [
            sentence_bleu([reference.split()], candidate.split(), weights=(0.5, 0.5), smoothing_function=smooth)
            for candidate, reference in last
        ],
    },
    open(output, "w"),
)
