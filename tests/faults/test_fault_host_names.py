"""With an empty password only names that mean this machine are answered to: the protection against DNS rebinding."""

from support import luna, session

ANSWERED = [
    "localhost", "localhost:{port}", "127.0.0.1", "127.0.0.1:{port}", "127.8.9.1:{port}", "[::1]", "[::1]:{port}",
]  # fmt: skip
REFUSED = [
    "evil.example", "evil.example:{port}", "localhost.evil.example:{port}", "127.0.0.1.evil.example", "evil.example:80:{port}",
    "10.0.0.1:{port}", "0.0.0.0:{port}", "[::2]:{port}", "localhost@evil.example", "",
]  # fmt: skip
PATHS = ["/registry/v1/services/json", "/registry/v1/services/", "/registry/v1/instances/a:b:1", "/"]


async def _statuses(address: str, host: str) -> set[int]:
    """Ask for several pages, and for a change, under a Host name; return how they were answered."""
    headers = {"Host": host.format(port=address.rpartition(":")[2])}
    statuses = set()
    async with session(address) as client:
        for path in PATHS:
            async with client.get(path, headers=headers, allow_redirects=False) as answer:
                statuses.add(answer.status)
        async with client.put("/registry/v1/instances/a:b:1", headers=headers) as answer:
            statuses.add(answer.status)
    return statuses


async def test_names_of_this_machine_are_answered() -> None:
    """Names and addresses that mean loopback are answered, with and without a port."""
    async with luna() as server:
        for host in ANSWERED:
            assert (host, await _statuses(server.rest, host)) == (host, {200, 302, 404})


async def test_host_names_know_no_case() -> None:
    """A Host name is the same name in capitals (RFC 9110, section 4.2.3)."""
    async with luna(env={"LUNA_ALLOWED_HOSTS": "Luna.Test"}) as server:
        for host in ("LOCALHOST:{port}", "Localhost", "LUNA.test", "luna.TEST:{port}"):
            assert (host, await _statuses(server.rest, host)) == (host, {200, 302, 404})


async def test_other_names_are_refused() -> None:
    """Any other name is refused with 403 and a word on why, whatever is asked for."""
    async with luna() as server:
        for host in REFUSED:
            assert (host, await _statuses(server.rest, host)) == (host, {403})
        async with session(server.rest) as client, client.get(PATHS[0], headers={"Host": "evil.example"}) as answer:
            document = await answer.json()
            assert document["code"] == "PERMISSION_DENIED"
            assert "LUNA_AUTH_PASSWORD" in document["error"]
            assert "LUNA_ALLOWED_HOSTS" in document["error"]


async def test_further_names_can_be_allowed() -> None:
    """LUNA_ALLOWED_HOSTS adds names, and only those."""
    async with luna(env={"LUNA_ALLOWED_HOSTS": "luna.test, Registry.Test"}) as server:
        for host in ("luna.test", "luna.test:{port}", "registry.test:{port}", "localhost"):
            assert (host, await _statuses(server.rest, host)) == (host, {200, 302, 404})
        for host in ("evil.example", "luna.test.evil.example", "a.luna.test"):
            assert (host, await _statuses(server.rest, host)) == (host, {403})
