"""Callbacks over real connections: what is sent, to whom, how often, and where they never go."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deployments.callbacks import sender as sender_module
from deployments.callbacks.addresses import Address, may_reach, parse_networks
from deployments.callbacks.rules import CallbackRules
from deployments.callbacks.sender import AT_ONCE_PER_HOST, LOOK_AHEAD, MAX_TRIES, CallbackSender, delay_after
from pipeline.config import Settings
from pipeline.errors import CallbackRejected
from pipeline.jobs.records import Delivery, JobRecord
from tests.callback_receiver import Receiver, plain, receiving
from tests.stub_models import PATIENCE_S

NOW = 1_800_000_000.0
SECRET = "a long secret of this test"
RECORD = JobRecord(
    job_id="5f" * 16,
    client="127.0.0.1",
    state="ready",
    stage="ready",
    progress=100,
    run=1,
    width=120,
    height=90,
    objects=(),
    qualities=(),
    files=("original.png", "mask_0.png"),
    error=None,
    attempts=1,
    deaths=0,
    callback_url="http://hooks.test/",
    bytes_stored=1000,
    created_at=NOW - 60,
    updated_at=NOW,
    expires_at=NOW + 3600,
)

# fmt: off
PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "255.255.255.255", "224.0.0.1", "240.0.0.1", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1",
    "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "2001::1", "3fff::1", "::ffff:127.0.0.1",
    "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b::a00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:c0a8:101::", "100::1",
    "5f00::1",
]
# fmt: on


class MemoryOutbox:
    """The store's outbox without a database."""

    def __init__(self, *deliveries: Delivery) -> None:
        self.now = NOW
        self.open = {delivery.delivery_id: delivery for delivery in deliveries}
        self.delivered_ids: list[str] = []
        self.given_up: list[str] = []
        self.changed = asyncio.Condition()

    async def due_deliveries(self, limit: int) -> list[Delivery]:
        due = [delivery for delivery in self.open.values() if delivery.due_at <= self.now]
        return sorted(due, key=lambda delivery: delivery.due_at)[:limit]

    async def next_delivery_at(self) -> float | None:
        return min((delivery.due_at for delivery in self.open.values()), default=None)

    async def delivered(self, delivery_id: str) -> None:
        del self.open[delivery_id]
        self.delivered_ids.append(delivery_id)
        await self._tell()

    async def postpone_delivery(self, delivery_id: str, *, until: float | None) -> None:
        delivery = self.open.pop(delivery_id)
        if until is None:
            self.given_up.append(delivery_id)
        else:
            self.open[delivery_id] = replace(delivery, attempts=delivery.attempts + 1, due_at=until)
        await self._tell()

    async def wait_until(self, condition: Callable[[MemoryOutbox], bool]) -> None:
        async with self.changed, asyncio.timeout(PATIENCE_S):
            await self.changed.wait_for(lambda: condition(self))

    async def postponed(self, delivery_id: str) -> Delivery:
        """The delivery once a try has failed."""
        await self.wait_until(lambda outbox: outbox.open[delivery_id].attempts > 0)
        return self.open[delivery_id]

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def rules(hosts: str = "*.test", secret: str = SECRET, private: str = "127.0.0.0/8") -> CallbackRules:
    settings = {"callback_hosts": hosts, "callback_secret": secret, "callback_private_networks": private}
    return CallbackRules.of(Settings(_env_file=None, **settings))  # type: ignore[arg-type]


def hosts_on(receiver: Receiver) -> str:
    return f"*.test:{receiver.port}"


def delivery(url: str, delivery_id: str = "d1", **changes: Any) -> Delivery:
    return replace(Delivery(delivery_id, RECORD.job_id, url, RECORD, attempts=0, due_at=NOW), **changes)


class Names:
    """A name server whose answers a test writes; it remembers what was asked."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers) or [["127.0.0.1"]]
        self.asked: list[str] = []

    async def __call__(self, host: str) -> list[Address]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ipaddress.ip_address(text) for text in answer]


@contextlib.asynccontextmanager
async def sending(outbox: MemoryOutbox, allowed: CallbackRules, **options: Any) -> AsyncIterator[CallbackSender]:
    options.setdefault("resolve", Names())
    sender = CallbackSender(outbox, allowed, now=lambda: outbox.now, **options)
    task = asyncio.create_task(sender.run())
    try:
        yield sender
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


def hmac_by_hand(key: bytes, message: bytes) -> bytes:
    """RFC 2104, written out: not the module the sender uses."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


class TestMessage:
    async def test_the_body_is_the_status_document_with_absolute_times(self, receiver: Receiver) -> None:
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test", "/a?b=c")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])
        (request,) = receiver.requests
        body = json.loads(request.body)
        assert request.path == "/a?b=c"
        assert request.headers["content-type"] == "application/json"
        assert (body["job_id"], body["status"], body["files"]) == (RECORD.job_id, "ready", list(RECORD.files))
        assert body["created_at"] == "2027-01-15T07:59:00Z"
        assert "queue_position" not in body

    @pytest.mark.parametrize(
        ("secret", "key"),
        [
            (SECRET, SECRET.encode()),
            ("x" * 100, b"x" * 100),
            ("whsec_" + base64.b64encode(bytes(range(32))).decode(), bytes(range(32))),
        ],
        ids=["text", "long text", "as Standard Webhooks writes it"],
    )
    async def test_the_signature_is_that_of_standard_webhooks(
        self, receiver: Receiver, secret: str, key: bytes
    ) -> None:
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver), secret)):
            (request,) = await receiver.wait_for(1)
        headers = request.headers
        assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("d1", str(int(NOW)))
        signed = f"d1.{int(NOW)}.".encode() + request.body
        version, signature = headers["webhook-signature"].split(",")
        assert version == "v1"
        assert base64.b64decode(signature) == hmac_by_hand(key, signed)

    async def test_a_repeat_has_the_same_id_and_a_new_timestamp(self, receiver: Receiver) -> None:
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        receiver.answer = lambda request: plain(500 if len(receiver.requests) == 1 else 200)
        async with sending(outbox, rules(hosts_on(receiver))) as sender:
            outbox.now = (await outbox.postponed("d1")).due_at
            sender.wake()
            first, second = await receiver.wait_for(2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.headers["webhook-timestamp"] < second.headers["webhook-timestamp"]
        assert first.body == second.body


class TestRetries:
    @pytest.mark.parametrize("status", [200, 201, 204, 299])
    async def test_any_2xx_is_a_delivery(self, receiver: Receiver, status: int) -> None:
        receiver.answer = lambda request: plain(status)
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])
        assert len(receiver.requests) == 1

    @pytest.mark.parametrize("status", [304, 400, 404, 429, 500, 503])
    async def test_any_other_status_is_tried_again_later(self, receiver: Receiver, status: int) -> None:
        receiver.answer = lambda request: plain(status)
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            later = await outbox.postponed("d1")
        assert (later.attempts, outbox.delivered_ids) == (1, [])
        assert 4 <= later.due_at - NOW <= 6

    async def test_410_gives_up(self, receiver: Receiver) -> None:
        receiver.answer = lambda request: plain(410)
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.wait_until(lambda outbox: outbox.given_up == ["d1"])

    async def test_the_last_try_gives_up(self, receiver: Receiver) -> None:
        receiver.answer = lambda request: plain(500)
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test"), attempts=MAX_TRIES - 1))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.wait_until(lambda outbox: outbox.given_up == ["d1"])

    def test_ten_tries_spread_over_a_day(self) -> None:
        delays = [delay_after(tries) for tries in range(1, MAX_TRIES + 1)]
        known = [delay for delay in delays if delay is not None]
        assert (MAX_TRIES, len(known), delays[-1]) == (10, 9, None)
        assert 4 <= known[0] <= 6
        assert known == sorted(known)
        assert 17 * 3600 < sum(known) < 27 * 3600

    def test_delays_are_spread_by_chance(self) -> None:
        assert len({delay_after(3) for _ in range(20)}) > 1

    async def test_a_redirect_is_not_followed(self, receiver: Receiver) -> None:
        receiver.answer = lambda request: plain(307, f"Location: {receiver.url('hooks.test', '/elsewhere')}")
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.postponed("d1")
        assert [request.path for request in receiver.requests] == ["/hook"]

    async def test_an_endless_answer_is_not_read(self, receiver: Receiver) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"
        receiver.answer = lambda request: head + bytes(100_000)
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])

    async def test_endless_headers_are_a_failure(self, receiver: Receiver) -> None:
        receiver.answer = lambda request: b"HTTP/1.1 200 OK\r\n" + b"x-more: and more\r\n" * 20_000
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.postponed("d1")

    @pytest.mark.parametrize("answer", [b"", b"SSH-2.0-dropbear\r\n"], ids=["nothing", "another protocol"])
    async def test_an_answer_that_is_no_http_is_a_failure(self, receiver: Receiver, answer: bytes) -> None:
        receiver.answer = lambda request: answer
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.postponed("d1")

    async def test_a_port_where_nobody_listens_is_a_failure(self, receiver: Receiver) -> None:
        async with receiving() as gone:
            url = gone.url("hooks.test")
        outbox = MemoryOutbox(delivery(url))
        async with sending(outbox, rules(hosts_on(gone))):
            await outbox.postponed("d1")

    async def test_a_receiver_that_hangs_is_left_after_the_timeout(self, receiver: Receiver) -> None:
        receiver.answer = lambda request: None
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        started = time.monotonic()
        async with sending(outbox, rules(hosts_on(receiver)), timeout_s=0.3):
            await outbox.postponed("d1")
        assert 0.3 <= time.monotonic() - started < PATIENCE_S / 2

    async def test_a_name_server_that_hangs_is_left_after_the_timeout(self, receiver: Receiver) -> None:
        async def hang(host: str) -> list[Address]:
            await asyncio.Event().wait()
            return []

        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver)), resolve=hang, timeout_s=0.3):
            await outbox.postponed("d1")


class TestSideBySide:
    async def test_one_slow_receiver_does_not_hold_up_the_others(self, receiver: Receiver) -> None:
        slow = [
            delivery(receiver.url("slow.test"), f"slow {i}", due_at=NOW - 100 + i / 1000) for i in range(3 * LOOK_AHEAD)
        ]
        quick = [delivery(receiver.url(f"quick{i % 3}.test"), f"quick {i}") for i in range(20)]
        receiver.answer = lambda request: None if request.headers["host"].startswith("slow") else plain(200)
        outbox = MemoryOutbox(*slow, *quick)
        async with sending(outbox, rules(hosts_on(receiver)), timeout_s=PATIENCE_S * 2):
            await outbox.wait_until(lambda outbox: len(outbox.delivered_ids) == len(quick))
        held = [request for request in receiver.requests if request.headers["host"].startswith("slow")]
        assert len(held) == AT_ONCE_PER_HOST

    async def test_no_delivery_is_sent_twice_at_once(self, receiver: Receiver) -> None:
        receiver.answer = lambda request: None if len(receiver.requests) == 1 else plain(200)
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test"), "first"))
        async with sending(outbox, rules(hosts_on(receiver)), timeout_s=PATIENCE_S * 2) as sender:
            await receiver.wait_for(1)
            outbox.open["second"] = delivery(receiver.url("hooks.test"), "second")
            sender.wake()
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["second"])
        assert [request.headers["webhook-id"] for request in receiver.requests] == ["first", "second"]

    async def test_a_new_delivery_is_sent_when_the_sender_is_woken(self, receiver: Receiver) -> None:
        outbox = MemoryOutbox()
        async with sending(outbox, rules(hosts_on(receiver))) as sender:
            await asyncio.sleep(0)
            outbox.open["d1"] = delivery(receiver.url("hooks.test"))
            sender.wake()
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])

    async def test_a_delivery_due_later_is_sent_without_being_woken(self, receiver: Receiver) -> None:
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test"), due_at=NOW + 0.2))
        started = time.monotonic()
        clock = lambda: NOW + time.monotonic() - started  # noqa: E731
        allowed = rules(hosts_on(receiver))
        sender = CallbackSender(outbox, allowed, now=clock, resolve=Names())
        task = asyncio.create_task(sender.run())
        outbox_time = asyncio.create_task(_run_clock(outbox, clock))
        await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])
        assert time.monotonic() - started >= 0.2
        for each in (task, outbox_time):
            each.cancel()
        await asyncio.gather(task, outbox_time, return_exceptions=True)

    async def test_an_outbox_that_fails_does_not_end_the_sending(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sender_module, "OUTBOX_PAUSE_S", 0.01)

        class Shaky(MemoryOutbox):
            failures = 2

            async def due_deliveries(self, limit: int) -> list[Delivery]:
                if self.failures:
                    self.failures -= 1
                    raise RuntimeError("the database is away")
                return await super().due_deliveries(limit)

        outbox = Shaky(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])

    async def test_an_outcome_that_cannot_be_written_down_is_sent_again_after_a_pause(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sender_module, "OUTBOX_PAUSE_S", 0.2)

        class Forgetful(MemoryOutbox):
            failures = 1

            async def delivered(self, delivery_id: str) -> None:
                if self.failures:
                    self.failures -= 1
                    raise RuntimeError("the database is away")
                await super().delivered(delivery_id)

        outbox = Forgetful(delivery(receiver.url("hooks.test")))
        started = time.monotonic()
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])
        assert len(receiver.requests) == 2
        assert time.monotonic() - started >= 0.2

    async def test_what_is_under_way_at_the_end_stays_in_the_outbox(self, receiver: Receiver) -> None:
        receiver.answer = lambda request: None
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await receiver.wait_for(1)
        assert outbox.open["d1"].attempts == 0


async def _run_clock(outbox: MemoryOutbox, clock: Callable[[], float]) -> None:
    while True:
        outbox.now = clock()
        await asyncio.sleep(0.01)


class TestAddresses:
    @pytest.mark.parametrize(
        "address",
        PRIVATE,
    )
    def test_what_is_not_the_internet_is_not_reached(self, address: str) -> None:
        assert not may_reach(ipaddress.ip_address(address), ())

    @pytest.mark.parametrize(
        "address",
        ["1.1.1.1", "93.184.216.34", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::808:808", "2002:808:808::1"],
    )
    def test_the_internet_is_reached(self, address: str) -> None:
        assert may_reach(ipaddress.ip_address(address), ())

    @pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::a01:203", "fd00::5"])
    def test_a_private_network_that_is_listed_is_reached(self, address: str) -> None:
        networks = parse_networks("10.1.0.0/16, fd00::/8")
        assert may_reach(ipaddress.ip_address(address), networks)
        assert not may_reach(ipaddress.ip_address("10.2.0.1"), networks)


class TestRebinding:
    async def test_the_name_is_asked_once_a_try_and_its_answer_is_what_is_dialled(self, receiver: Receiver) -> None:
        """The name server answers with loopback once, then with an address where nobody is."""
        names = Names(["127.0.0.1"], ["127.0.0.2"])
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver)), resolve=names):
            (request,) = await receiver.wait_for(1)
        assert names.asked == ["hooks.test"]
        assert request.headers["host"] == f"hooks.test:{receiver.port}"

    async def test_a_name_that_turns_private_between_tries_is_not_dialled(self, receiver: Receiver) -> None:
        """First an address of the listed network where nobody is; then loopback, which is not listed."""
        names = Names(["127.9.9.9"], ["127.0.0.1"])
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver), private="127.9.0.0/16"), resolve=names) as sender:
            outbox.now = (await outbox.postponed("d1")).due_at
            sender.wake()
            await outbox.wait_until(lambda outbox: outbox.open["d1"].attempts == 2)
        assert len(names.asked) == 2
        assert receiver.connections == 0

    @pytest.mark.parametrize("answer", [["127.0.0.1"], ["::ffff:127.0.0.1"], ["1.1.1.1", "127.0.0.1"]], ids=str)
    async def test_one_private_address_among_them_refuses_the_name(
        self, receiver: Receiver, answer: list[str], service_log: pytest.LogCaptureFixture
    ) -> None:
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver), private=""), resolve=Names(answer)):
            await outbox.postponed("d1")
        assert receiver.connections == 0
        assert "CALLBACK_PRIVATE_NETWORKS" in service_log.text

    async def test_the_operating_system_resolves_by_default(self, receiver: Receiver) -> None:
        outbox = MemoryOutbox(delivery(receiver.url("localhost")))
        allowed = rules(f"localhost:{receiver.port}", private="127.0.0.0/8, ::1/128")
        async with sending(outbox, allowed, resolve=None):
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])

    @pytest.mark.parametrize(
        "error", [OSError("Name or service not known"), UnicodeError("label too long"), RuntimeError("not foreseen")]
    )
    async def test_a_name_that_cannot_be_asked_for_is_a_failure(self, receiver: Receiver, error: Exception) -> None:
        async def unknown(host: str) -> list[Address]:
            raise error

        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver)), resolve=unknown):
            await outbox.postponed("d1")

    async def test_the_next_address_is_tried_when_nobody_listens_at_the_first(self, receiver: Receiver) -> None:
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        names = Names(["127.0.0.99", "127.0.0.1"])
        async with sending(outbox, rules(hosts_on(receiver)), resolve=names):
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])

    async def test_proxies_of_the_environment_are_not_used(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])


class Authority:
    """A certificate authority for one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test authority")])
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self._own = self._signed(self._name, self._key.public_key(), basic, critical=True)

    def client(self) -> ssl.SSLContext:
        """Trusts this authority alone."""
        return ssl.create_default_context(cadata=self._own.public_bytes(serialization.Encoding.PEM).decode())

    def server(self, name: str) -> ssl.SSLContext:
        """Proves to be ``name``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        certificate = self._signed(subject, key.public_key(), names, critical=False)
        path = self._folder / f"{name}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _signed(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType, *, critical: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(extension, critical=critical)
            .sign(self._key, hashes.SHA256())
        )


class TestTls:
    async def test_the_certificate_is_checked_for_the_name_though_an_address_is_dialled(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        context = authority.server("hooks.test")
        asked: list[str | None] = []
        context.sni_callback = lambda connection, name, own: asked.append(name)
        async with receiving(context) as receiver:
            outbox = MemoryOutbox(delivery(receiver.url("hooks.test", scheme="https")))
            async with sending(outbox, rules(hosts_on(receiver)), ssl_context=authority.client()):
                await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["d1"])
        assert asked == ["hooks.test"]
        assert receiver.requests[0].headers["host"] == f"hooks.test:{receiver.port}"

    async def test_a_certificate_of_another_name_is_refused(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        async with receiving(authority.server("other.test")) as receiver:
            outbox = MemoryOutbox(delivery(receiver.url("hooks.test", scheme="https")))
            async with sending(outbox, rules(hosts_on(receiver)), ssl_context=authority.client()):
                await outbox.postponed("d1")
        assert receiver.requests == []

    async def test_a_certificate_of_an_unknown_authority_is_refused(self, tmp_path: Path) -> None:
        async with receiving(Authority(tmp_path).server("hooks.test")) as receiver:
            outbox = MemoryOutbox(delivery(receiver.url("hooks.test", scheme="https")))
            async with sending(outbox, rules(hosts_on(receiver))):
                await outbox.postponed("d1")
        assert receiver.requests == []

    async def test_a_connection_is_not_used_again_for_another_name(self, tmp_path: Path) -> None:
        """Both names lead to one address, whose certificate is only that of the first."""
        authority = Authority(tmp_path)
        async with receiving(authority.server("hooks.test")) as receiver:
            receiver.answer = lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            outbox = MemoryOutbox(
                delivery(receiver.url("hooks.test", scheme="https"), "right"),
                delivery(receiver.url("other.test", scheme="https"), "wrong"),
            )
            async with sending(outbox, rules(hosts_on(receiver)), ssl_context=authority.client()):
                await outbox.postponed("wrong")
                await outbox.wait_until(lambda outbox: outbox.delivered_ids == ["right"])


class TestRules:
    @pytest.mark.parametrize(
        ("hosts", "url"),
        [
            ("hooks.example.com", "https://hooks.example.com/x?y=z"),
            ("hooks.example.com", "http://hooks.example.com"),
            ("hooks.example.com", "https://HOOKS.Example.COM:443/"),
            ("other.example, hooks.example.com", "https://hooks.example.com/"),
            ("*.example.com", "https://a.b.example.com/"),
            ("hooks.example.com:8443", "https://hooks.example.com:8443/"),
            ("hooks.example.com:443", "https://hooks.example.com/"),
            ("bücher.example", "https://xn--bcher-kva.example/"),
            ("[::1]:8080", "http://[::1]:8080/"),
        ],
    )
    def test_what_is_listed_is_allowed(self, hosts: str, url: str) -> None:
        rules(hosts).check(url)

    @pytest.mark.parametrize(
        "url",
        [
            "https://other.example/",
            "https://example.com/",
            "https://hooks.example.com.evil.example/",
            "https://evilexample.com/",
            "https://hooks.example.com:8443/",
            "http://hooks.example.com:443/",
            "https://hooks.example.com:99999/",
            "https://user@hooks.example.com/",
            "https://user:secret@hooks.example.com/",
            "https://hooks.example.com@evil.example/",
            "https://evil.example\\@hooks.example.com/",
            "ftp://hooks.example.com/",
            "file:///etc/passwd",
            "//hooks.example.com/",
            "hooks.example.com",
            "https:///x",
            "https://hooks.example.com /",
            "https://a..sub.example.com/",
            "https://.sub.example.com/",
            "https://a%00.sub.example.com/",
            "https://a.sub.example.com/\ud800",
            "https://a.sub.example.com./",
            "https://a.sub.example.com:0/",
            "https://hooks.example.com/\n",
            "https://hooks.example.com/" + "x" * 2000,
            "https://hooks.example.com\u2024evil.example/",
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://[::1]/",
            "",
        ],
        ids=ascii,
    )
    def test_what_is_not_listed_is_refused(self, url: str) -> None:
        with pytest.raises(CallbackRejected):
            rules("hooks.example.com, *.sub.example.com").check(url)

    @pytest.mark.parametrize(
        ("hosts", "secret", "named"),
        [
            ("", "", "CALLBACK_HOSTS and CALLBACK_SECRET"),
            ("", SECRET, "CALLBACK_HOSTS"),
            ("hooks.example.com", "", "CALLBACK_SECRET"),
        ],
    )
    def test_without_settings_the_refusal_names_what_to_set(self, hosts: str, secret: str, named: str) -> None:
        with pytest.raises(CallbackRejected, match=rf"must set {named}\.$"):
            rules(hosts, secret).check("https://hooks.example.com/")

    def test_without_any_setting_nothing_is_allowed(self) -> None:
        with pytest.raises(CallbackRejected):
            CallbackRules.of(Settings(_env_file=None)).check("https://hooks.example.com/")  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        "broken",
        [
            {"hosts": "https://hooks.example.com"},
            {"hosts": "hooks.example.com/path"},
            {"hosts": "*"},
            {"hosts": "a.*.example.com"},
            {"hosts": "user@hooks.example.com"},
            {"private": "10.0.0.1/8"},
            {"private": "localhost"},
            {"secret": "whsec_not base64"},
        ],
        ids=str,
    )
    def test_settings_that_cannot_be_read_stop_the_start(self, broken: dict[str, str]) -> None:
        with pytest.raises(ValueError, match=r"."):
            rules(**broken)

    async def test_a_host_that_is_allowed_no_more_is_not_called(
        self, receiver: Receiver, service_log: pytest.LogCaptureFixture
    ) -> None:
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test")))
        async with sending(outbox, rules("other.test")):
            await outbox.postponed("d1")
        assert receiver.connections == 0
        assert "CALLBACK_HOSTS" in service_log.text

    async def test_the_log_does_not_tell_what_the_url_says_beside_the_host(
        self, receiver: Receiver, service_log: pytest.LogCaptureFixture
    ) -> None:
        receiver.answer = lambda request: plain(500)
        outbox = MemoryOutbox(delivery(receiver.url("hooks.test", "/token-in-path?token=in-query")))
        async with sending(outbox, rules(hosts_on(receiver))):
            await outbox.postponed("d1")
        assert "hooks.test" in service_log.text
        assert "token" not in "".join(record.getMessage() for record in service_log.records if "ray" in record.name)
