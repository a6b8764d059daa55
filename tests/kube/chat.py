"""People who talk about X-rays while the cluster changes under them.

Each does what a careful client does: a request that got no answer is sent again with the same Idempotency-Key, a stream that broke is
followed on with the last event's number, at whichever gateway the Service leads to.
"""

import http.client
import json
import random
import threading
import time
import uuid

QUESTIONS = ["Is there edema?", "Is the heart enlarged?", "What does the report mean for the patient?"]
ANSWER_SECONDS = 180
SILENT_SECONDS = 30
LONGEST_PAUSE = 10


class Conversation:
    """What one person asked and read: (question, answer as read event by event) of each turn."""

    def __init__(self, image, question):
        self.image, self.question = image, question
        self.turns = []


class Chatters:
    """People at work until they are stopped. `endpoints` is a function that gives the gateways' addresses."""

    def __init__(self, endpoints, key, xrays, people):
        self.endpoints, self.key = endpoints, key
        self._xrays, self._next = list(xrays), 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._people = [threading.Thread(target=self._talk, daemon=True) for _ in range(people)]
        self.conversations = []
        self.wrong = []
        self.refused = self.broken = self.unavailable = 0

    def __enter__(self):
        for person in self._people:
            person.start()
        return self

    def __exit__(self, *exception):
        self._stopped.set()
        if exception[0] is None:
            for person in self._people:
                person.join()

    def turns(self):
        """Turns that were read to their end."""
        return sum(len(conversation.turns) for conversation in list(self.conversations))

    def _talk(self):
        while not self._stopped.is_set():
            with self._lock:
                number = self._next
                self._next += 1
            image = self._xrays[number % len(self._xrays)]
            conversation = Conversation(image, QUESTIONS[number % len(QUESTIONS)])
            begun = time.monotonic()
            try:
                self.converse(conversation)
                self.conversations.append(conversation)
            except Exception as error:  # noqa: BLE001
                # Whatever it is, a person did not get an answer.
                self.wrong.append(f"conversation {number}: {error!r}")
            # People read and think. Turns go before reports, so people without a pause would leave a single worker no time for reports.
            self._stopped.wait(min(max(1.0, 2 * (time.monotonic() - begun)), LONGEST_PAUSE))

    def converse(self, conversation):
        """Uploads the image with the question, reads report and answer, and asks for a summary."""
        kind, body = form({"question": conversation.question}, conversation.image)
        begun = self._ask("POST", "/v1/conversations", body, kind)
        path = f"/v1/conversations/{begun['id']}/turns"
        conversation.turns += [self._follow(path, 1), self._follow(path, 2)]
        self._ask("POST", path, json.dumps({"task": "summary"}).encode(), "application/json")
        conversation.turns.append(self._follow(path, 3))

    def _ask(self, method, path, body=None, kind=None):
        """A request and its answer; sent again until a gateway answers it."""
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": uuid.uuid4().hex}
        if kind:
            headers["Content-Type"] = kind
        end = time.monotonic() + ANSWER_SECONDS
        while True:
            answer = None
            try:
                answer = self._request(method, path, body, headers)
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._note(error)
            if answer is not None and answer.status < 300:
                return json.loads(content)
            if answer is not None and answer.status not in (429, 502, 503, 504):
                raise RuntimeError(f"{method} {path}: {answer.status} {content[:300]!r}")
            if time.monotonic() > end:
                raise TimeoutError(f"{method} {path}: no answer in {ANSWER_SECONDS} s")
            time.sleep(0.3)

    def _request(self, method, path, body=None, headers=None):
        addresses = self.endpoints()
        if not addresses:
            self.unavailable += 1
            raise ConnectionError("the Service has no endpoint")
        address, port = random.choice(addresses)
        connection = http.client.HTTPConnection(address, port, timeout=SILENT_SECONDS)
        connection.request(method, path, body, headers or {})
        return connection.getresponse()

    def _note(self, error):
        with self._lock:
            if isinstance(error, ConnectionRefusedError):
                self.refused += 1
            else:
                self.broken += 1

    def _follow(self, path, turn):
        """Reads a turn's events to its end, and returns (question, answer). Raises where one is missing, comes twice, or the turn failed."""
        seen, text, last = 0, "", None
        end = time.monotonic() + ANSWER_SECONDS
        while last is None:
            if time.monotonic() > end:
                raise TimeoutError(f"{path}/{turn}: not answered in {ANSWER_SECONDS} s, {seen} events read")
            try:
                headers = {"Authorization": f"Bearer {self.key}", "Last-Event-ID": str(seen)}
                answer = self._request("GET", f"{path}/{turn}/events", None, headers)
                if answer.status != 200:
                    answer.read()
                    if answer.status in (429, 502, 503, 504):
                        time.sleep(0.3)
                        continue
                    raise RuntimeError(f"{path}/{turn}/events: {answer.status}")
                for kind, number, data in events(answer):
                    if number is None:
                        continue
                    if number != seen + 1:
                        raise RuntimeError(f"{path}/{turn}: event {number} after {seen}")
                    seen = number
                    if kind == "token":
                        text += data["text"]
                    elif kind not in ("findings", "started"):
                        last = data
                        break
            except (OSError, http.client.HTTPException) as error:
                self._note(error)
            if last is None:
                time.sleep(0.3)
        if last["status"] != "done" or last["text"] != text:
            raise RuntimeError(f"{path}/{turn}: {last['status']} {last.get('error')}, read {text!r}, stored {last['text']!r}")
        return last["asked"], text


def events(answer):
    """Server-Sent Events of an answer: (kind, number or none, data)."""
    kind, number, data = "message", None, []
    for raw in answer:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("id:"):
            number = int(line[3:])
        elif line.startswith("data:"):
            data.append(line[5:].lstrip(" "))
        elif not line and data:
            yield kind, number, json.loads("\n".join(data))
            kind, number, data = "message", None, []


def form(fields, image):
    """A multipart form of these fields and an image, as (content type, body)."""
    boundary = uuid.uuid4().hex
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="image.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = b"".join([*parts, head.encode(), image, f"\r\n--{boundary}--\r\n".encode()])
    return f"multipart/form-data; boundary={boundary}", body
