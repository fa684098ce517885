#!/bin/sh
# pick-packages.sh ROOT PACKAGE... copies the files of installed Debian packages into
# an empty ROOT, leaving out files that programs do not read at run time.
set -eu
root=$1
shift

mkdir -p "$root"
for dir in bin sbin lib lib64; do
    mkdir -p "$root/usr/$dir"
    ln -s "usr/$dir" "$root/$dir"
done

mkdir -p "$root/var/lib/dpkg/status.d"
for package in "$@"; do
    dpkg-query --status "$package" > "$root/var/lib/dpkg/status.d/$package"
    dpkg-query --listfiles "$package" \
        | grep -Ev '^/usr/share/(man|info|lintian|locale|bug)/|^/usr/share/doc/.*/(changelog|NEWS|README)' \
        | while read -r path; do
            if [ -L "$path" ] || [ ! -d "$path" ]; then printf '%s\n' "$path"; fi
        done
done | sort -u > /picked.list
(cd / && sed "s,^/,," /picked.list | tar -c --no-recursion --files-from=-) | tar -x --keep-directory-symlink -C "$root"

mkdir -p "$root/etc/ssl/certs" "$root/home/nonroot" "$root/root"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cat > "$root/etc/passwd" <<'USERS'
root:x:0:0:root:/root:/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin
nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin
USERS
cat > "$root/etc/group" <<'GROUPS'
root:x:0:
nobody:x:65534:
nonroot:x:65532:
GROUPS
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
chown 65532:65532 "$root/home/nonroot"
mkdir -m 1777 "$root/tmp"
