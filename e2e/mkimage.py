#!/usr/bin/env python3
"""Makes a one-layer image (docker-archive) without any container tool. The same input gives the same bytes.

Load it with `ctr -n k8s.io images import OUT.tar`, `docker load`, `kind load image-archive` or `skopeo copy`.
"""
import argparse
import hashlib
import io
import json
import os
import platform
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("name", metavar="NAME:TAG")
    p.add_argument("out", metavar="OUT.tar")
    p.add_argument("--rootfs", metavar="DIR", help="directory that becomes /")
    p.add_argument("--copy", action="append", default=[], metavar="SRC:DST", help="file or directory")
    p.add_argument("--link", action="append", default=[], metavar="TARGET:DST", help="symbolic link")
    p.add_argument("--dir", action="append", default=[], metavar="PATH:MODE[:UID]", help="empty directory")
    p.add_argument("--entrypoint", nargs="+")
    p.add_argument("--cmd", nargs="+")
    p.add_argument("--env", action="append", default=[], metavar="K=V")
    p.add_argument("--label", action="append", default=[], metavar="K=V")
    p.add_argument("--user", default="")
    p.add_argument("--workdir", default="/")
    return p.parse_args()


class Layer:
    """A tar whose bytes depend on nothing but the content: no times, no names of users."""

    def __init__(self):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=tarfile.GNU_FORMAT)
        self.directories = set()

    def directory(self, path, mode=0o755, uid=0):
        path = path.strip("/")
        if path and path not in self.directories:
            self.parents(path)
            self.directories.add(path)
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, uid, uid
            self.tar.addfile(entry)

    def parents(self, path):
        if "/" in path.strip("/"):
            self.directory(path.strip("/").rsplit("/", 1)[0])

    def copy(self, source, path):
        def owned(entry):
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            return entry

        self.parents(path)
        self.tar.add(os.path.realpath(source), path.strip("/"), filter=owned)

    def link(self, target, path):
        self.parents(path)
        entry = tarfile.TarInfo(path.strip("/"))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self.tar.addfile(entry)

    def close(self):
        self.tar.close()
        return self.bytes.getvalue()


def add(tar, name, data):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


def main():
    a = arguments()
    layer = Layer()
    for entry in sorted(os.listdir(a.rootfs)) if a.rootfs else []:
        layer.copy(os.path.join(a.rootfs, entry), entry)
        layer.directories.add(entry)
    for spec in a.dir:
        path, mode, uid = (spec.split(":") + ["0"])[:3]
        layer.directory(path, int(mode, 8), int(uid))
    for spec in a.copy:
        layer.copy(*spec.rsplit(":", 1))
    for spec in a.link:
        layer.link(*spec.rsplit(":", 1))
    data = layer.close()
    digest = hashlib.sha256(data).hexdigest()

    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": a.entrypoint,
            "Cmd": a.cmd,
            "User": a.user,
            "WorkingDir": a.workdir,
            "Env": [path] + a.env,
            "Labels": dict(label.split("=", 1) for label in a.label),
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
    }
    config = json.dumps(config).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": config_name, "RepoTags": [a.name], "Layers": [digest + "/layer.tar"]}]
    with tarfile.open(a.out + ".tmp", "w") as tar:
        add(tar, config_name, config)
        add(tar, digest + "/layer.tar", data)
        add(tar, "manifest.json", json.dumps(manifest).encode())
    os.rename(a.out + ".tmp", a.out)


if __name__ == "__main__":
    main()
