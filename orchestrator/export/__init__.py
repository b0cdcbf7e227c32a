"""From the composed configuration and its plan to what a cluster's own system takes: manifests of KubeRay, a
batch script of Slurm, the file of Ray's launcher, a compose file. Pure: text is made, nothing is started."""
