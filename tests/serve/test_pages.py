"""Static files: those of the folder and no others, under a policy that runs nothing else."""

import pytest
import yarl

from pynanochat.serve.pages import FOLDER


@pytest.fixture
def ui(tmp_path):
    folder = tmp_path / "ui"
    (folder / "sub").mkdir(parents=True)
    (folder / "index.html").write_text("<p>chat</p>")
    (folder / "watch.html").write_text("<p>watch</p>")
    (folder / "a.js").write_text("1")
    (folder / "sub" / "b.css").write_text("b{}")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


async def test_pages_and_files(serve, ui):
    async with serve(ui=ui) as served:
        for path, text, kind in (
            ("/", b"<p>chat</p>", "text/html; charset=utf-8"),
            ("/watch", b"<p>watch</p>", "text/html; charset=utf-8"),
            ("/ui/a.js", b"1", "text/javascript; charset=utf-8"),
            ("/ui/sub/b.css", b"b{}", "text/css; charset=utf-8"),
        ):
            status, body, headers = await served.get(path)
            assert (status, body, headers["Content-Type"]) == (200, text, kind)
            assert headers["Cache-Control"] == "no-cache"
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "script-src 'self'" in policy and "connect-src 'self'" in policy
            assert "require-trusted-types-for 'script'" in policy
            assert "unsafe" not in policy and "frame-ancestors 'none'" in policy


OUTSIDE = [
    *("/ui/", "/ui/sub", "/ui/none.js", "/ui/a.js/", "/ui/a.js%00", "/a.js", "/ui/../secret.txt", "/ui//etc/passwd"),
    *("/ui/%2e%2e/secret.txt", "/ui/..%2fsecret.txt", "/ui/sub/../../secret.txt", "/ui/%2fetc%2fpasswd"),
    "/ui/..\\secret.txt",
]


@pytest.mark.parametrize("path", OUTSIDE)
async def test_there_is_no_way_out_of_the_folder(serve, ui, path):
    async with serve(ui=ui) as served, served.client.get(yarl.URL(served.address + path, encoded=True)) as response:
        assert response.status == 404 and b"secret" not in await response.read()


async def test_a_browsers_copy_is_checked(serve, ui):
    async with serve(ui=ui) as served:
        _, _, headers = await served.get("/ui/a.js")
        tag = headers["ETag"]
        status, body, again = await served.get("/ui/a.js", headers={"If-None-Match": tag})
        assert (status, body, again["ETag"]) == (304, b"", tag)
        (ui / "a.js").write_text("22")
        status, body, again = await served.get("/ui/a.js", headers={"If-None-Match": tag})
        assert (status, body) == (200, b"22") and again["ETag"] != tag


def test_the_shipped_pages_load_nothing_from_elsewhere():
    for file in [*FOLDER.rglob("*.html"), *FOLDER.rglob("*.css")]:
        text = file.read_text()
        assert "://" not in text.replace("http://www.w3.org/", ""), file
        assert "<script>" not in text and " style=" not in text and "<style" not in text and " onclick=" not in text, (
            file
        )
