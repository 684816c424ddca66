package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// volumes makes, resizes and deletes the test cluster's volumes. It needs no CSI driver: a volume is a directory, given
// out as a "local" volume, which unlike hostPath honours fsGroup. Storage class parameter node=any makes one that moves
// with its pod (all nodes share this machine's file system), like a network disk; otherwise it belongs to the node that
// the scheduler chose, so the class must have volumeBindingMode WaitForFirstConsumer. Parameter medium=sized makes a
// file system of its own (sized.go); of the others, sizes are only written down.
type volumes struct {
	client kubernetes.Interface
	dir    string
}

const (
	provisioner    = "e2e.local/volumes"
	provisionedBy  = "pv.kubernetes.io/provisioned-by"
	selectedNode   = "volume.kubernetes.io/selected-node"
	nodeAnywhere   = "any"
	mediumSized    = "sized"
	volumesPollGap = 250 * time.Millisecond
)

func runVolumes() {
	kubeconfig := flag.String("kubeconfig", "", "`file` with rights on volumes, claims and storage classes")
	dir := flag.String("dir", "", "`directory` of the volumes")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		log.Fatal(err)
	}
	config.QPS, config.Burst = 100, 200
	v := volumes{client: kubernetes.NewForConfigOrDie(config), dir: *dir}
	remount(v.dir)
	for ; ; time.Sleep(volumesPollGap) {
		if err := v.sync(context.Background()); err != nil {
			log.Print(err)
			time.Sleep(time.Second)
		}
	}
}

func (v *volumes) sync(ctx context.Context) error {
	// ResourceVersion 0: from the API server's cache, without asking etcd.
	list := metav1.ListOptions{ResourceVersion: "0"}
	classList, err := v.client.StorageV1().StorageClasses().List(ctx, list)
	if err != nil {
		return err
	}
	classes := map[string]*storagev1.StorageClass{}
	for i, c := range classList.Items {
		if c.Provisioner == provisioner {
			classes[c.Name] = &classList.Items[i]
		}
	}
	claims, err := v.client.CoreV1().PersistentVolumeClaims("").List(ctx, list)
	if err != nil {
		return err
	}
	pvs, err := v.client.CoreV1().PersistentVolumes().List(ctx, list)
	if err != nil {
		return err
	}
	byName := map[string]*v1.PersistentVolume{}
	for i, pv := range pvs.Items {
		if pv.Annotations[provisionedBy] != provisioner {
			continue
		}
		byName[pv.Name] = &pvs.Items[i]
		if pv.Status.Phase == v1.VolumeReleased && pv.DeletionTimestamp == nil &&
			pv.Spec.PersistentVolumeReclaimPolicy == v1.PersistentVolumeReclaimDelete {
			if err := v.delete(ctx, &pvs.Items[i]); err != nil {
				log.Printf("delete %s: %v", pv.Name, err)
			}
		}
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		if claim.DeletionTimestamp != nil || claim.Spec.StorageClassName == nil {
			continue
		}
		class := classes[*claim.Spec.StorageClassName]
		if class == nil {
			continue
		}
		var err error
		switch {
		case claim.Spec.VolumeName == "" && byName["pvc-"+string(claim.UID)] == nil:
			err = v.provision(ctx, class, claim)
		case claim.Status.Phase == v1.ClaimBound && byName[claim.Spec.VolumeName] != nil:
			err = v.resize(ctx, byName[claim.Spec.VolumeName], claim)
		}
		if err != nil {
			log.Printf("claim %s/%s: %v", claim.Namespace, claim.Name, err)
		}
	}
	return nil
}

func (v *volumes) provision(ctx context.Context, class *storagev1.StorageClass, claim *v1.PersistentVolumeClaim) error {
	waits := class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	node := claim.Annotations[selectedNode]
	if waits && node == "" {
		return nil // no pod uses it yet
	}
	where := v1.NodeSelectorRequirement{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpIn, Values: []string{node}}
	if class.Parameters["node"] == nodeAnywhere {
		where = v1.NodeSelectorRequirement{Key: v1.LabelHostname, Operator: v1.NodeSelectorOpExists}
	} else if node == "" {
		return fmt.Errorf("storage class %s: parameter node=%s or volumeBindingMode WaitForFirstConsumer is needed", class.Name, nodeAnywhere)
	}
	name := "pvc-" + string(claim.UID)
	path := filepath.Join(v.dir, name)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o777); err != nil { // whatever the umask
		return err
	}
	if volume := (sized{dir: path}); class.Parameters["medium"] == mediumSized && !volume.exists() {
		size := claim.Spec.Resources.Requests[v1.ResourceStorage]
		if err := volume.create(size.Value()); err != nil {
			return err
		}
	}
	pv := &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{provisionedBy: provisioner}},
		Spec: v1.PersistentVolumeSpec{
			StorageClassName:              class.Name,
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: claim.Spec.Resources.Requests[v1.ResourceStorage]},
			PersistentVolumeReclaimPolicy: v1.PersistentVolumeReclaimDelete,
			PersistentVolumeSource:        v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: path}},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{
				{MatchExpressions: []v1.NodeSelectorRequirement{where}}}}},
			ClaimRef: &v1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		},
	}
	if class.ReclaimPolicy != nil {
		pv.Spec.PersistentVolumeReclaimPolicy = *class.ReclaimPolicy
	}
	// The controller binds in two steps, volume name first, and a pod that is scheduled between them waits 15 s for the
	// kubelet to look again. So the second step is done before the first can be.
	bound := claim.DeepCopy()
	bound.Status.Phase, bound.Status.AccessModes, bound.Status.Capacity = v1.ClaimBound, pv.Spec.AccessModes, pv.Spec.Capacity
	if _, err := v.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, bound, metav1.UpdateOptions{}); err != nil {
		return err
	}
	_, err := v.client.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) { // the list was a little old
		return nil
	}
	return err
}

func (v *volumes) resize(ctx context.Context, pv *v1.PersistentVolume, claim *v1.PersistentVolumeClaim) error {
	want, have := claim.Spec.Resources.Requests[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage]
	if want.Cmp(have) <= 0 {
		return nil
	}
	if pv.Spec.Local != nil {
		if volume := (sized{dir: pv.Spec.Local.Path}); volume.exists() {
			if err := volume.grow(want.Value()); err != nil {
				return err
			}
		}
	}
	pv, claim = pv.DeepCopy(), claim.DeepCopy()
	if size := pv.Spec.Capacity[v1.ResourceStorage]; size.Cmp(want) < 0 {
		pv.Spec.Capacity[v1.ResourceStorage] = want
		if _, err := v.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	claim.Status.Capacity[v1.ResourceStorage] = want
	claim.Status.Conditions = nil
	_, err := v.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return err
}

func (v *volumes) delete(ctx context.Context, pv *v1.PersistentVolume) error {
	if pv.Spec.Local == nil || filepath.Dir(pv.Spec.Local.Path) != v.dir {
		return fmt.Errorf("%s is not a volume of %s", pv.Name, v.dir)
	}
	if volume := (sized{dir: pv.Spec.Local.Path}); volume.exists() {
		if err := volume.remove(); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(pv.Spec.Local.Path); err != nil {
		return err
	}
	err := v.client.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
