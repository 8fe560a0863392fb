"""What kind of effect a text speaks of, and what a tool has: sending, paying, removing …; and on what kind of thing.

Sentences are compared by these kinds, not by their wording: "wire 500 to", "the transfer of 500 to" and "überweise 500
an" are all paying. It is a small vocabulary, not understanding. A text without one known word says nothing either way.
"""

import functools
import re
from dataclasses import dataclass

from governed_mcpd.gate.text.decode import fold
from governed_mcpd.gate.text.words import lines, words

# Kinds of effect. `reads` has none. Words that are nouns as often stand in _NOUNS too: they count by their place.
_EFFECTS = {
    "sends": words(
        """
        send sent resend email mail message text sms dm forward reply respond answer notify inform
        tell share post repost
        publish tweet retweet announce remind contact write submit deliver dispatch broadcast alert comment chat
        communicate pass report relay upload exfiltrate leak attach cc bcc fax transmit disclose
        reveal hand say feedback
        greet congratulate thank apologize webhook hand convey confirm ask request bring
        """
    ),
    "pays": words(
        """
        pay paid payment transfer wire refund buy purchase order donate donation tip settle reimburse checkout remit
        trade sell invest deposit withdraw withdrawal repay subscribe spend transaction payout fund bid redeem charge
        compensate owe return exchange
        """
    ),
    "books": words(
        """
        book reserve reservation rent schedule plan appointment arrange reschedule booking hire organize
        """
    ),
    "makes": words(
        """
        create add make new write generate draft build register insert append log save store record note prepare import
        upload put open compose produce schedule set place commit fork clone copy duplicate print paste post
        export backup archive attach push start begin file issue raise submit label tag fill
        """
    ),
    "changes": words(
        """
        update change edit modify set move rename replace fix adjust correct convert refactor reschedule mark assign
        turn handle switch toggle increase decrease raise lower configure enable disable lock unlock close merge resolve
        manage control adapt rotate extend shorten format reset add append rewrite complete finish organize
        postpone shift swap redirect override patch apply upgrade downgrade restore merge tidy clean label activate
        deactivate arm disarm dim open play pause edit like star follow unfollow rate review vote reopen alter
        leave join mute forget fill sort improve exchange return renew
        """
    ),
    "removes": words(
        """
        delete remove cancel clear clean uninstall erase drop unsubscribe trash discard wipe destroy kill revoke purge
        unfollow kick ban block terminate stop reject decline empty prune unlink rid withdraw undo deregister expel tidy
        truncate leave forget abort retract
        """
    ),
    "admits": words(
        """
        share grant invite add give admit allow join permit permission access authorize approve unlock promote assign
        delegate enroll onboard welcome role collaborator member whitelist
        """
    ),
    "runs": words(
        """
        run execute install start launch deploy build test command script compile restart reboot stop kill shutdown
        invoke call trigger perform evaluate eval debug lint terminal shell bash exec
        """
    ),
}
_READS = words(
    """
    get list ls read search find fetch view check show query describe lookup look count status diff see watch review
    recall browse verify summarize summarise analyze analyse calculate translate history retrieve preview inspect tell
    test explain what which who when where how suggest recommend compare give display extract summary overview know
    estimate monitor track scan visit open is are does did do can could
    """
)
_READ_TOOLS = frozenset(
    words(
        """
        get list ls read search find fetch view check show query describe lookup look count status diff recall browse
        verify summarize summarise analyze analyse calculate translate current history retrieve preview inspect test
        explain estimate compare recommend suggest
        """
    )
)
# These count as verbs only where an order or a request puts its verb: at a beginning, after "to", "please", "and" …
_NOUNS = frozenset(
    words(
        """
        email mail message text sms dm post tweet comment chat report answer reply share order
        transfer trade charge fund
        book schedule plan rent note log record store copy file issue label tag set place print backup import export
        start stop test build command script call play star like rate review vote access role member tip bid open new
        lock switch turn control fix format patch upgrade change update move mark close join forward contact alert ask
        return say put clear clean drop block view sent mute payment withdrawal reservation booking donation transaction
        appointment permission payout webhook feedback deposit purchase transfer collaborator save
        """
    )
)
_BEFORE_A_VERB = frozenset(
    words(
        """
        to please and then or you also kindly just i we not must should shall will would can could may might now first
        next finally ll d let lets immediately directly don't dont both either afterwards it they he she
        be being help me help us who
        """
    )
)
# What an answer is asked for with: "tell me" sends nothing.
_TO_ME = re.compile(
    r"\b(tell|show|give|send|ask|let|write|remind|inform|notify|message|text|email|get|answer|report)(ing)?\s+"
    r"(it\s+|this\s+|that\s+|them\s+|back\s+)?(to\s+)?(me|us)\b(?!\s*(share|their|his|her|money))"
    r"|\blet\s+(me|us)\s+know\b"
)
_THINGS = {
    "message": words(
        """
        email mail message text sms dm inbox chat tweet post comment letter reply thread newsletter slack
        gmail
        """
    ),
    "event": words(
        "event meeting appointment calendar lunch dinner call "
        "reminder invitation participant attendee agenda class party visit"
    ),
    "file": words(
        "file document doc folder directory drive report spreadsheet attachment "
        "pdf note minutes list txt csv docx page wiki disk"
    ),
    "money": words(
        """
        money transaction payment bill rent refund invoice balance account bank iban fund amount salary price crypto
        bitcoin ether wallet dollar euro card holding investment saving venmo paypal spending fee tax
        """
    ),
    "person": words(
        "contact user member colleague friend people person "
        "profile customer client employee name address phone passport"
    ),
    "room": words("channel group room workspace team server chat guild"),
    "device": words("device light lamp lock door camera alarm thermostat heater robot home house garage appliance"),
    "trip": words(
        """
        hotel flight trip travel restaurant car rental booking reservation airline airport ticket city room
        """
    ),
    "product": words(
        """
        product item order cart shop purchase amazon shipment parcel package delivery inventory review
        laptop
        """
    ),
    "task": words("task ticket issue todo project bug card board milestone"),
    "code": words("repository repo code commit branch pull request git github gitlab package dependency test function"),
    "data": words("database table row record query sql column schema dataset entry log history"),
    "secret": words(
        """
        password credential token key secret pin login authentication passport ssn twofactor 2fa otp code
        """
    ),
    "web": words("web website webpage site url link page browser internet search article blog news"),
    "health": words(
        """
        patient doctor health medical prescription appointment clinical genetic diagnosis hospital
        medication
        """
    ),
    "place": words("location map route address place weather city country traffic"),
    "machine": words("server process service machine system host port container cluster network program"),
}  # fmt: skip
# The beginnings of words (letters without accents) in other languages, and whole words in scripts without blanks.
_FOREIGN = {
    "sends": r"(sende|schick|versende|weiterleit|teile|mitteil|schreib|antwort|veroffentlich|ubermittel"
    r"|envoy|envoi|transmet|"
    r"partag|repond|publi(?:e|er|ez)$|enviar?|envia|envio|manda(?:r|re)?$|manden|reenvi|comparti|responde"
    r"|publica|invia|inoltr|"
    r"condivi|rispond|scriv|encaminh|compartilh|stuur|verzend|antwoord|wyslij|przeslij|wyslac|udostepni"
    r"|napisz|gonder|ilet|"
    r"отправ|перешл|напиш|пошли|сообщ|опублик)",
    "pays": r"(uberweis|bezahl|zahle|kauf|bestell|spende|virement|vire[rz]?$|pay(?:e|er|ez)$|achet"
    r"|rembours|command(?:e|er|ez)$|"
    r"pag(?:a|ar|ue|o)$|transfier|transferir|compr(?:a|ar|e)$|deposit|trasferi|bonific|acquist|betaal"
    r"|overmak|koop$|zaplac|"
    r"przelej|kup(?:ic)?$|ode(?:me)?$|satin|перевед|переве[сд]т|оплат|заплат|купи)",
    "books": r"(buche|reserv|termin|planifi|agend|prenot|boek|zarezerw|umow|rezerv|брони|заброни|запланир)",
    "makes": r"(erstell|anleg|hinzufug|leg$|speicher|schreib|erzeug|cree[rz]?$|creation|ajout|enregistr"
    r"|genere|crea(?:r|re|te)?$|"
    r"crie$|anad|agreg|guarda|aggiung|salv|maak|toevoeg|utworz|dodaj|zapisz|olustur|ekle|созда|добав|сохран)",
    "changes": r"(ander|aktualisier|setz|stell|verschieb|umbenenn|modifi|change[rz]$|actualiz|cambi"
    r"|modific|aggiorn|atualiz|alter|"
    r"wijzig|zmien|zaktualiz|degistir|guncelle|измен|обнов|перенес|переимен)",
    "removes": r"(losch|entfern|storn|beend|suppr|efface|enlev|annul|borra|elimin|quita|cancell|rimuov"
    r"|apag|exclu|remov|verwijder|"
    r"usun|skasuj|sil$|kaldir|удал|отмен|сотри)",
    "admits": r"(einlad|lade$|freigeb|gewahr|berechtig|invit|autoris|accord|autoriz|conced|permit"
    r"|uitnodig|zapros|nadaj|davet|"
    r"приглас|предостав|разреш)",
    "runs": r"(ausfuhr|fuhre$|installier|starte|execut|exec|install|lance[rz]?$|ejecut|instal|esegu|avvia"
    r"|uitvoer|uruchom|"
    r"zainstal|calistir|запуст|выполн|установ)",
}
_HAN = {
    "sends": "发送|发给|寄|转发|分享|回复|通知|发布|送信|送って|共有|返信|보내|전송|공유|답장",
    "pays": "转账|支付|付款|购买|汇款|退款|振込|支払|購入|송금|결제|지불|구매",
    "books": "预订|预约|安排|予約|예약",
    "makes": "创建|新建|添加|写入|保存|作成|追加|만들|생성|추가|저장",
    "changes": "修改|更改|更新|设置|変更|更新|設定|변경|수정|설정",
    "removes": "删除|取消|移除|清空|削除|삭제|취소|제거",
    "admits": "邀请|授权|授予|招待|許可|초대|허용|권한",
    "runs": "执行|运行|安装|下载|実行|インストール|실행|설치",
}
_FOREIGN_READS = re.compile(
    fold(
        r"^(zeig|lies|lese|such|find|fass|prufe|welche|was$|wie$|montre|lis$|cherche|trouve|resum|quel|quoi"
        r"|muestra|lee$|busca|"
        r"encuentra|que$|cual|mostra|leggi|cerca|trova|leia|procur|zoek|lees|toon|pokaz|znajd|przeczyt|goster"
        r"|oku$|bul$|покаж|найд|"
        r"прочит|какой|что$)"
        r"|查找|显示|阅读|总结|搜索|查看|表示|検索|読んで|要約|보여|찾아|읽어|요약"
    )
)
# As texts are compared: folded, which turns Cyrillic letters that look like Latin ones into those.
_FOREIGN_EFFECTS = {kind: re.compile("^" + fold(pattern)) for kind, pattern in _FOREIGN.items()}
_HAN_EFFECTS = {kind: re.compile(pattern) for kind, pattern in _HAN.items()}
_PHRASES = tuple(
    (kind, re.compile(rf"\b({'|'.join(lines(text))})\b"))
    for kind, text in {
        "makes": "set up\nput together\nwrite down\ntake down\nfill (in|out)",
        "sends": "get back to\nlet [\\w.@' -]{1,40} know\nreach out\nget in touch\nsend back\n"
        "give [\\w.@' -]{1,40} the",
        "books": "(make|get|set up|schedule|create|need|want|arrange) (a|an|the|my|us a|me a|new) ([a-z]+ )?"
        "(reservation|booking|appointment|room|table|meeting|flight)",
        "pays": "(make|do|set up|schedule|create|initiate|issue|process|place) (a|an|the|my|new) ([a-z]+ ){0,2}"
        "(payment|transaction|transfer|purchase|donation|deposit|order|withdrawal)\ntop up\npay off\n"
        "send back the (difference|money)\nsend (them|him|her) (back )?the (difference|money)",
        "removes": "get rid of\nthrow away\ntake down\ncall off\nsign out",
        "changes": "turn (on|off|up|down)\nmake sure\ncheck off",
        "admits": "let [\\w.@' -]{1,40} (in|into)\ngive [\\w.@' -]{1,40} access\nopen up",
    }.items()
)
_WORD = re.compile(r"[^\W_]+(?:'[a-z]+)?")
_LONGEST = 20_000
ENGLISH = frozenset(
    words("the a an of to in is are for on with from my me and please by it this that i you his her can all any at as")
)
_BREAK = re.compile(r"[.!?;:,\n\"'`()\[\]{}<>|]")


@dataclass(frozen=True, slots=True)
class Intent:
    """Kinds of effect and of thing; `reads`: it asks something; `known`: enough words were known to say so.

    `named` are the kinds of effect whose names stand there as nouns too: "the transfer takes place".
    """

    effects: frozenset[str]
    things: frozenset[str]
    reads: bool
    known: bool
    named: frozenset[str] = frozenset()


NOTHING = Intent(frozenset(), frozenset(), False, False)


@functools.lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """`word` without its English ending, so that forms of one word are equal."""
    for ending in ("ations", "ation", "ments", "ings", "ing", "ies", "ed", "es", "s", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            cut = word[: -len(ending)]
            return cut[:-1] if len(cut) > 3 and cut[-1] == cut[-2] and ending in ("ing", "ed", "ings") else cut
    return word


def _by_stem(table: dict[str, tuple[str, ...]]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for kind, listed in table.items():
        for word in listed:
            found.setdefault(word, set()).add(kind)
            found.setdefault(stem(word), set()).add(kind)
    return {word: frozenset(kinds) for word, kinds in found.items()}


_EFFECT_OF = _by_stem(_EFFECTS)
_THING_OF = _by_stem(_THINGS)
_READ_STEMS = frozenset((*_READS, *map(stem, _READS)))
_NOUN_STEMS = frozenset((*_NOUNS, *map(stem, _NOUNS)))


def of_text(text: str) -> Intent:
    """What a task or a sentence speaks of. Text past 20,000 characters is not looked at: a task is shorter."""
    return _of_text(text[:_LONGEST])


@functools.lru_cache(maxsize=1024)
def _of_text(text: str) -> Intent:
    folded = _TO_ME.sub(" . ", " ".join(fold(text).casefold().replace("’", "'").split()))
    effects: set[str] = set()
    named: set[str] = set()
    things: set[str] = set()
    reads = False
    english = 0
    before, end = "", 0
    for match in _WORD.finditer(folded):
        word = match[0]
        starts = not before or _BREAK.search(folded, end, match.start()) is not None
        root = stem(word)
        english += word in ENGLISH
        things |= _THING_OF.get(word) or _THING_OF.get(root) or frozenset()
        kinds = _EFFECT_OF.get(word) or _EFFECT_OF.get(root) or frozenset()
        named |= kinds
        if kinds and _is_verb(word, root, starts, before):
            effects |= kinds
        elif not kinds and (len(word) > 3 or not word.isascii()):
            effects |= _foreign(word)
        reads = reads or word in _READ_STEMS or root in _READ_STEMS
        before, end = word, match.end()
    for kind, phrase in _PHRASES:
        if phrase.search(folded):
            effects.add(kind)
    if not folded.isascii():
        effects |= {kind for kind, pattern in _HAN_EFFECTS.items() if pattern.search(folded)}
    reads = reads or any(_FOREIGN_READS.search(word) for word in folded.split()[:40])
    known = bool(effects) or (english >= 2) or (reads and english >= 1)
    return Intent(frozenset(effects), frozenset(things), reads, known, frozenset(named | effects))


def _is_verb(word: str, root: str, starts: bool, before: str) -> bool:
    if word not in _NOUN_STEMS and root not in _NOUN_STEMS:
        return True
    return starts or before in _BEFORE_A_VERB or (word.endswith(("ing", "ed")) and word not in _NOUN_STEMS)


def _foreign(word: str) -> frozenset[str]:
    return frozenset(kind for kind, pattern in _FOREIGN_EFFECTS.items() if pattern.match(word))


# A tool of such a name does whatever its arguments say.
_ANYTHING = frozenset(
    words(
        """
        apply perform execute manage control process handle operation action invoke call use do trigger terminal shell
        bash exec eval command script python code cmd console repl run
        """
    )
)
_PLAIN_EFFECTS = frozenset(word for listed in _EFFECTS.values() for word in listed if word not in _NOUNS)


def says_nothing(word: str) -> bool:
    """Whether a word of a tool's name says nothing about what the tool does."""
    return word in _ANYTHING or word in _READ_TOOLS


@functools.lru_cache(maxsize=4096)
def only_reads(tool_words: tuple[str, ...]) -> bool:
    """Whether a tool's name says that it reads: a verb of reading, and none that only an effect has (get_and_send)."""
    return not _READ_TOOLS.isdisjoint(tool_words) and _PLAIN_EFFECTS.isdisjoint(tool_words)


@functools.lru_cache(maxsize=4096)
def of_tool(tool_words: tuple[str, ...], has_effect: bool) -> Intent:
    """What a tool's name says that it does. A tool that only reads has no effects."""
    effects: set[str] = set()
    things: set[str] = set()
    # The verb comes first, or after the name of a service: what stands at the end is what it is done to.
    verbs = [word for word in tool_words if _EFFECT_OF.get(word) and word not in _NOUNS]
    for word in tool_words:
        root = stem(word)
        if word in _ANYTHING:
            continue
        things |= _THING_OF.get(word) or _THING_OF.get(root) or frozenset()
        # A word that is a noun as often is the verb only where another word follows: what it is done to.
        if has_effect and (word in verbs or (not verbs and (word != tool_words[-1] or len(tool_words) == 1))):
            effects |= _EFFECT_OF.get(word) or _EFFECT_OF.get(root) or frozenset()
    if "money" in things and "sends" in effects:
        effects = {"pays"}
    return Intent(frozenset(effects), frozenset(things), not has_effect, bool(effects or things))
