"""File systems by the names that mount tables have for them: as systems call them, and not as the code does."""

from __future__ import annotations

REMOTE = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "coda", "davfs"),
    *("ceph", "lustre", "glusterfs", "beegfs", "gpfs", "orangefs", "pvfs2"),
    *("9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "fakeowner"),
    *("fuse", "fuse.sshfs", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.ceph-fuse", "fuse.davfs"),
    *("fuse.davfs2", "fuse.gcsfuse", "fuse.blobfuse2", "fuse.goofys", "fuse.juicefs", "fuse.curlftpfs"),
    *("fuse.gvfsd-fuse", "fuse.vmhgfs-fuse", "fuse.grpcfuse", "fuse.google-drive-ocamlfuse", "fuse.mfs"),
)
"""Those on which locks do not hold."""

LOCAL = (
    *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "tmpfs", "overlay", "ecryptfs"),
    *("vfat", "exfat", "ntfs3", "fuseblk", "apfs", "hfsplus"),
    *("fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.encfs", "fuse.cryfs", "fuse.mergerfs", "fuse.bindfs"),
)
