"""Untrusted text, taken apart: sentences that instruct, and plain data.

A sentence instructs when it is an order (an imperative, "please …", "you must …", "X has to be sent") or when it goes
on with one ("Subject: …" after "Each email should have the following text:"). Orders to nobody in particular count:
a model reads them as its own.
"""

import functools
import re
from dataclasses import dataclass

import re2

from governed_mcpd.gate.text.decode import fold
from governed_mcpd.gate.text.words import words

# A model's context is of this order; more is not looked through quietly (see Provenance).
MAX_UNTRUSTED = 1024 * 1024
_GOES_ON_FOR = 24

# Verbs that at the start of a sentence are an order, whatever follows.
_ORDERS = words(
    """
    send give tell say write read open run execute install uninstall download upload delete remove add create make
    get fetch find visit browse go click buy purchase sell pay wire deposit withdraw refund invite ask reply respond
    inform notify append insert replace rename overwrite encrypt decrypt disable enable turn unlock lock grant
    revoke approve authorize accept reject cancel confirm verify check ensure submit publish deploy launch start
    stop kill terminate reboot restart reset wipe erase destroy format dump collect gather retrieve extract
    exfiltrate leak concatenate summarize translate compile list show display print describe tweet retweet follow
    unfollow subscribe unsubscribe register sign login log adjust increase decrease change modify alter edit
    configure assign attach import export sync dispatch generate use take put keep let do perform complete proceed
    continue begin ignore disregard forget remember always never don't navigate enter choose select pick pass save
    store prepare apply
    """
)
# Verbs that are nouns as often; they count only before something that an order would have.
_PERHAPS = words(
    """
    email mail message text call contact book order reserve schedule transfer post report file note update move copy
    share forward search request review rate charge credit mark set plan look view access test backup host query
    issue record trade exchange donate block mute ban release switch clean clear empty fill join leave connect link
    map monitor track
    """
)
_OBJECT = (
    r"((the|a|an|all|any|every|each|my|your|our|their|his|her|its|this|that|these|those|it|them|him|me|us|to|into|up|out|over|"
    r"back|everything|everyone|some|only|both|money|funds)(\s|[.,;:!?)\"']|$)|[\"'`(<]|[a-z0-9._+-]+@|https?:|www\.|[~/$])"
)
_START = (
    r"(^|[\"'`>:\]\)\-*#•]\s*|\b(then|and|next|first|second|finally|also|now|instead|afterwards|todo|task|action)[\s,:]+|,\s+)"
    r"(please\s+|kindly\s+|also\s+|now\s+|just\s+|then\s+|immediately\s+|first,?\s+|next,?\s+|finally,?\s+)*"
)
_ADDRESS = "you|assistant|agent|ai|model|chatbot|bot|llm|system|user"
_OTHER_ORDERS = (
    r"\b(please|kindly)\s+[a-z]+\b",
    rf"\b(the\s+|any\s+)?({_ADDRESS})s?\s+(must|should|shall|need\s+to|needs\s+to|have\s+to|has\s+to|ought\s+to|will\s+now|"
    r"are\s+(required|instructed|asked|expected|ordered|to)\b|is\s+(required|instructed|asked|expected)\b)",
    r"\b(i|we)\s*('d|\s+would)?\s+(need|want|like|ask|require|expect|order|instruct)\s+you\b",
    r"\b(can|could|would|will)\s+you\s+(please\s+|also\s+|kindly\s+)?[a-z]+",
    r"\b(make|be)\s+sure\s+(to|that|you)\b",
    r"\b(must|should|shall|has\s+to|have\s+to|needs?\s+to|is\s+to|are\s+to)\s+be\s+(immediately\s+|now\s+)?"
    r"(sent|forwarded|transferred|paid|wired|emailed|mailed|posted|uploaded|deleted|removed|added|invited|created|made|"
    r"executed|run|installed|downloaded|shared|changed|updated|booked|copied|written|published|given|granted|set|called)\b",
    r"\b(it\s+is|it's)\s+(important|necessary|required|essential|mandatory|critical|vital)\s+(that|to)\b",
    r"\b(the\s+)?(next|first|final|required|only|remaining)\s+(step|action|task)s?\s+(is|are|needed|required)\b",
    r"\b(before|in\s+order\s+to|to)\s+[a-z\s]*(proceed|continue|finish|complete)\b[^.]*\b(must|need|have\s+to|first)\b",
    # German, French, Spanish, Italian, Portuguese, Dutch, Polish, Russian, Chinese, Japanese: request words and orders.
    r"\b(bitte|veuillez|s'il\s+(vous|te)\s+plait|por\s+favor|per\s+favore|alsjeblieft|prosze)\b",
    r"(^|[\"':>]\s*)(sende|schicke?|uberweise|losche|lade|offne|erstelle|fuhre|besuche|kaufe|ignoriere|vergiss|gib)\s",
    r"(^|[\"':>]\s*)(envoie|envoyez|transfere[sz]?|supprime[rz]?|telecharge[rz]?|ouvre[rz]?|cree[rz]?|execute[rz]?|ignore[rz]?)\s",
    r"(^|[\"':>]\s*)(envia|envie|manda|transfiere|borra|elimina|descarga|abre|crea|ejecuta|ignora|paga|visita)\s",
    r"(^|[\"':>]\s*)(invia|inviate|trasferisci|cancella|scarica|apri|esegui|mande|apague|baixe|execute|stuur|verwijder)\s",
    fold(r"(пожалуйста|отправь|отправьте|переведи|переведите|удали|удалите|скачай|выполни|игнорируй)"),
    r"(请|发送|转账|删除|下载|执行|忽略|必须|ください|送信し|削除し|実行し|무시|보내|삭제)",
)
_OPTIONS = re2.Options()
_OPTIONS.case_sensitive = False
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 32 * 1024 * 1024
_ORDER = re2.compile(
    "|".join(
        (
            rf"{_START}({'|'.join(_ORDERS)})(\s+[^\s:]|\s*$)",
            rf"{_START}({'|'.join(_PERHAPS)})\s+{_OBJECT}",
            *_OTHER_ORDERS,
        )
    ),
    _OPTIONS,
)
# "Please find attached" and its like hand something over. Only these words are taken out: what follows may be an order.
_HANDS_OVER = re2.compile(
    r"\b(please|kindly)\s+(find\s+(attached|below|enclosed|the\s+attached)|see|note|be\s+(advised|aware)|do\s+not\s+reply)\b"
    r"|\b(please\s+)?(feel\s+free|do\s+not\s+hesitate)\s+to\s+(contact|ask|call|reach\s+out)\b|\blet\s+(me|us)\s+know\b",
    _OPTIONS,
)
_GOES_ON = re2.compile(
    r"^\W*(subject|body|text|message|title|to|use|with|then|also|after|afterwards|next|finally|each|it|its|their|his|her|they|"
    r"the\s+(account|recipient|e-?mail|amount|text|message|body|subject|title|url|link|address|iban|content|file|name|date|"
    r"description|event|transaction|password)|account|recipient|iban|amount|do\s+(this|it|so)|this|that|if|in\s+the|for\s+the)\b",
    _OPTIONS,
)
_BOUNDARY = re.compile(r"(?<=[.!?。！？])\s+|\n+|;\s|\x1e|(?<=。)|<br\s*/?>")


@dataclass(frozen=True, slots=True)
class UntrustedText:
    """Normalised, one sentence per line: those that give orders, those that go on with one, and the others."""

    instructing: str
    following: str
    data: str


def normalise(text: str) -> str:
    """`text` as it is compared: folded, lower case, one space between words."""
    return " ".join(fold(text).casefold().split())


@functools.lru_cache(maxsize=128)
def take_apart(text: str) -> UntrustedText:
    """Sorts the sentences of `text`, read in one way (see unhide).

    The same text comes with every action of a conversation: hence the cache.
    """
    instructing: list[str] = []
    following: list[str] = []
    data: list[str] = []
    goes_on = 0
    for sentence in _BOUNDARY.split(text):
        plain = normalise(sentence)
        if not plain:
            continue
        if instructs(plain):
            instructing.append(plain)
            # A colon announces what to send; anything else is followed by at most a few particulars.
            goes_on = _GOES_ON_FOR if plain.endswith(":") else max(goes_on - 1, 4)
        elif goes_on and (goes_on > 4 or _GOES_ON.search(plain)):
            # What a colon announced is dictated. Otherwise a particular may as well be a record's: provenance decides.
            (instructing if goes_on > 4 else following).append(plain)
            goes_on -= 1
        else:
            data.append(plain)
            goes_on = 0
    return UntrustedText("\n".join(instructing), "\n".join(following), "\n".join(data))


def instructs(sentence: str) -> bool:
    """Whether a normalised sentence gives an order."""
    return _ORDER.search(_HANDS_OVER.sub("", sentence).strip()) is not None
