package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A sized volume is a file with a file system of the size that was asked for, mounted at the volume's directory. It can
// be full, and it can grow while it is used. The nodes see the mount because the directory of all volumes is a shared
// mount that they are slaves of. XFS and not ext4: growing that needs CAP_SYS_RESOURCE, which root may lack.
type sized struct {
	dir string // where it is mounted
}

func (s sized) image() string { return s.dir + ".img" }

func (s sized) exists() bool {
	_, err := os.Stat(s.image())
	return err == nil
}

func (s sized) create(bytes int64) error {
	if err := resizeFile(s.image(), bytes); err != nil {
		return err
	}
	// Unsupported are only its size, below 300 MiB, and so its speed.
	if err := run("mkfs.xfs", "-q", "-f", "--unsupported", s.image()); err != nil {
		return err
	}
	return s.mount()
}

func (s sized) mount() error {
	if run("mountpoint", "-q", s.dir) == nil {
		return nil
	}
	if err := run("mount", "-o", "loop", s.image(), s.dir); err != nil {
		return err
	}
	return os.Chmod(s.dir, 0o777) // whatever the umask
}

func (s sized) grow(bytes int64) error {
	if err := resizeFile(s.image(), bytes); err != nil {
		return err
	}
	device, err := exec.Command("losetup", "-n", "-O", "NAME", "-j", s.image()).Output()
	if err != nil {
		return err
	}
	if err := run("losetup", "-c", strings.TrimSpace(string(device))); err != nil {
		return err
	}
	return run("xfs_growfs", s.dir)
}

func (s sized) remove() error {
	if run("mountpoint", "-q", s.dir) == nil {
		if err := run("umount", s.dir); err != nil {
			return err
		}
	}
	return os.Remove(s.image())
}

// remount mounts what was mounted before this program, or the machine, was started again.
func remount(dir string) {
	images, _ := filepath.Glob(filepath.Join(dir, "*.img"))
	for _, image := range images {
		if err := (sized{dir: strings.TrimSuffix(image, ".img")}).mount(); err != nil {
			log.Printf("mount %s: %v", image, err)
		}
	}
}

func resizeFile(path string, bytes int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Truncate(bytes)
}

func run(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
