#!/bin/sh
# Installs the Debian packages that the tests need and this machine lacks:
#   tests/install_packages.sh [PACKAGE...]      (without arguments: all of them)
# Only root can. For anyone else it names the missing ones, and the tests that need them are skipped.
# With nothing to do it is silent.
set -eu

wanted=${*:-"postgresql rabbitmq-server redis-server bubblewrap libseccomp2 restic python3-venv"}

command -v dpkg-query >/dev/null || { echo "not a Debian system; install by hand what is missing of: $wanted"; exit 0; }

missing=
for package in $wanted; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
done
missing=${missing# }
[ -n "$missing" ] || exit 0

install="apt-get install --no-install-recommends $missing"
if [ "$(id -u)" != 0 ]; then
    echo "missing Debian packages: $missing (install them with: sudo $install)"
    exit 0
fi

echo "installing Debian packages: $missing"
scratch=$(mktemp -d)
policy=/usr/sbin/policy-rc.d

restore() {
    if [ -e "$scratch/policy-rc.d" ]; then mv -f "$scratch/policy-rc.d" "$policy"; else rm -f "$policy"; fi
    rm -rf "$scratch"
}

# The tests run instances of their own: the system's must not start, whatever the machine's policy says.
if [ -e "$policy" ]; then cp -a "$policy" "$scratch/policy-rc.d"; fi
trap restore EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
rm -f "$policy"  # it may be a link: write beside it, never through it
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
if ! {
    # One broken source must not stop the others: whether it worked shows in the installation.
    apt-get -qq -o DPkg::Lock::Timeout=300 update || true
    # shellcheck disable=SC2086  # one word a package
    apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends $missing
} >"$scratch/log" 2>&1 </dev/null; then
    tail -n 40 "$scratch/log" >&2
    echo "could not install: $missing" >&2
    exit 1
fi
# Nor at the next boot.
for package in $missing; do
    case $package in
        postgresql | rabbitmq-server | redis-server) systemctl --quiet disable "$package" >/dev/null 2>&1 || true ;;
    esac
done
