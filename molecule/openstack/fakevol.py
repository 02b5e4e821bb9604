"""Cinder on a disk that stores nothing; every change of a state is Cinder's own."""

from cinder.volume import driver


class Disk(driver.VolumeDriver):
    VERSION = "1"

    def clone_image(self, *_, **__):
        return {}, True  # "cloned": neither download nor qemu-img

    def initialize_connection(self, volume, *_, **__):
        return {"driver_volume_type": "fake", "data": {"volume_id": volume.id}}

    def _nothing(self, *_, **__):
        pass

    check_for_setup_error = terminate_connection = _nothing
    create_volume = delete_volume = extend_volume = create_cloned_volume = create_volume_from_snapshot = _nothing
    create_snapshot = delete_snapshot = copy_image_to_volume = copy_volume_to_image = _nothing
    create_export = ensure_export = remove_export = _nothing

    def _update_volume_stats(self):
        pool = {
            "pool_name": "pool",
            "total_capacity_gb": 10000,
            "free_capacity_gb": 10000,
            "allocated_capacity_gb": 0,
            "provisioned_capacity_gb": 0,
            "max_over_subscription_ratio": "20",
            "reserved_percentage": 0,
            "thin_provisioning_support": True,
            "thick_provisioning_support": False,
            "QoS_support": False,
        }
        self._stats = {
            "volume_backend_name": "fake",
            "vendor_name": "datarun",
            "driver_version": "1",
            "storage_protocol": "fake",
            "pools": [pool],
        }
