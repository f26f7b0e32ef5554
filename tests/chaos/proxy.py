"""A TCP proxy whose connections a test delays, cuts in the middle of a frame, and refuses.

TCP repeats and reorders nothing that its ends could see: what a network does to a connection is to be slow, to end, and not to come about.
"""
import asyncio
import threading

CHUNK_BYTES = 1 << 16


class Proxies:
    """Proxies of one cluster, on a thread of their own; `links` are their names in the order of being made."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._links = {}

    @property
    def links(self):
        return list(self._links)

    def add(self, name, port):
        """Forwards to 127.0.0.1:port; returns the port that it listens on."""
        link = _Link(port)
        self._links[name] = link
        return self._call(link.listen())

    def delay(self, name, seconds):
        """Each chunk waits so long from now on; 0: none does."""
        self._links[name].delay = seconds

    def cut(self, name):
        """Ends all connections; of a chunk that is under way half arrives."""
        self._call(self._links[name].cut())

    def refuse(self, name, refuse):
        """Connections are closed as they come, and those there are cut."""
        self._links[name].refusing = refuse
        if refuse:
            self.cut(name)

    def close(self):
        for link in self._links.values():
            self._call(link.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def _call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=10)


class _Link:
    def __init__(self, port):
        self.delay = 0.0
        self.refusing = False
        self._port = port
        self._server = None
        self._writers = set()
        self._cutting = False

    async def listen(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader, writer):
        if self.refusing:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, there_writer}
        self._writers |= both
        await asyncio.gather(self._forward(reader, there_writer), self._forward(there_reader, writer))
        self._writers -= both

    async def _forward(self, reader, writer):
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                if self.delay > 0:
                    await asyncio.sleep(self.delay)
                if self._cutting:
                    chunk = chunk[:len(chunk) // 2]
                writer.write(chunk)
                await writer.drain()
                if self._cutting:
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    async def cut(self):
        self._cutting = True
        await asyncio.sleep(0.02)  # What comes meanwhile arrives by half.
        self._cutting = False
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self):
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
