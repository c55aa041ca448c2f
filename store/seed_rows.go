package store

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

// Times of the fleet that is made up.
const (
	seedLife    = 365 * 24 * time.Hour // of a certificate
	seedRenewal = 243 * 24 * time.Hour // from one to the next
	seedGroups  = 300
)

// A seeding makes rows. The same SeedConfig gives the same fleet.
type seeding struct {
	SeedConfig
	template *seedCertificate
	random   *rand.Rand
	order    *seedOrder // being built
}

// A seedOrder is a work order, and how many of its devices were enrolled.
type seedOrder struct {
	number          int
	issued, ordered int64
	from, until     time.Time
}

func newSeeding(c SeedConfig) (*seeding, error) {
	template, err := newSeedCertificate(c.Issuer)
	return &seeding{SeedConfig: c, template: template, random: rand.New(rand.NewPCG(1, 2))}, err
}

// seedStatuses is how many of a thousand devices have each status.
var seedStatuses = []struct {
	status enroll.DeviceStatus
	of1000 int
}{{enroll.DeviceRegistered, 10}, {enroll.DeviceHeld, 15}, {enroll.DeviceRevoked, 20}, {enroll.DeviceRetired, 15}, {enroll.DeviceActive, 940}}

// chunk returns the rows of the devices from one number to before another, by
// table.
func (s *seeding) chunk(first, end int) map[string][][]any {
	rows := map[string][][]any{}
	for n := first; n < end; n++ {
		s.device(rows, n)
	}
	if end == s.Devices {
		s.endOrder(rows)
	}
	return rows
}

// A seedDevice is a device being made.
type seedDevice struct {
	id, group, order string
	status           enroll.DeviceStatus
	enrolled, seen   time.Time
	notAfter         time.Time
	serials          []string
}

// device adds a device, with its certificates and events.
func (s *seeding) device(rows map[string][][]any, n int) {
	products := []string{"pump", "vent", "lamp", "door", "lift", "tank", "cell", "gate"}
	d := &seedDevice{id: fmt.Sprintf("%s-%08d", products[n%len(products)], n), group: s.group()}
	pick := s.random.IntN(1000)
	for _, share := range seedStatuses {
		if d.status = share.status; pick < share.of1000 {
			break
		}
		pick -= share.of1000
	}
	// The last certificate expires at some time of the year ahead; a few have.
	last := s.Now.Add(time.Duration(s.random.Int64N(int64(seedLife))) - 14*24*time.Hour)
	if d.status != enroll.DeviceRegistered {
		d.enrolled = last.Add(-seedLife - time.Duration(s.Certificates-1)*seedRenewal)
		d.seen = last.Add(-seedLife)
	}
	created := d.enrolled
	if created.IsZero() {
		created = s.Now.Add(-24 * time.Hour)
	}
	s.toOrder(rows, d, n, created)
	if d.status != enroll.DeviceRegistered {
		for k := range s.Certificates {
			s.certificate(rows, d, k, d.enrolled.Add(time.Duration(k)*seedRenewal))
		}
	}
	if d.status == enroll.DeviceRevoked || d.status == enroll.DeviceRetired {
		s.revocation(rows, d)
	}
	attributes := map[string]string{
		"revision": string(rune('A' + s.random.IntN(6))), "site": fmt.Sprintf("Plant %d", s.random.IntN(40)),
		"firmware": fmt.Sprintf("%d.%d.%d", 1+s.random.IntN(3), s.random.IntN(10), s.random.IntN(20)),
	}
	rows["devices"] = append(rows["devices"], []any{
		d.id, string(d.status), d.group, attributesText(attributes), d.order, int64(1), micros(created), micros(d.seen), micros(d.enrolled), micros(d.notAfter),
	})
}

// group returns a group: some are large, most are small, and a tenth of the
// devices is in none.
func (s *seeding) group() string {
	if s.random.IntN(10) == 0 {
		return ""
	}
	x := s.random.Float64()
	return fmt.Sprintf("site-%03d", int(x*x*x*seedGroups))
}

// toOrder puts a device into the work order that is being built.
func (s *seeding) toOrder(rows map[string][][]any, d *seedDevice, n int, at time.Time) {
	if s.Orders == 0 {
		return
	}
	number := int(int64(n) * int64(s.Orders) / int64(s.Devices))
	if s.order == nil || s.order.number != number {
		s.endOrder(rows)
		s.order = &seedOrder{number: number, from: at}
	}
	o := s.order
	d.order = o.id()
	o.ordered++
	if d.status != enroll.DeviceRegistered {
		o.issued++
	}
	if at.Before(o.from) {
		o.from = at
	}
	if at.After(o.until) {
		o.until = at
	}
}

func (o *seedOrder) id() string { return fmt.Sprintf("WO-%07d", o.number) }

// endOrder adds the work order that was being built. Of twenty one is open.
func (s *seeding) endOrder(rows map[string][][]any) {
	o := s.order
	if o == nil {
		return
	}
	s.order = nil
	state, full := enroll.OrderClosed, int64(0)
	if o.number%20 == 0 {
		state = enroll.OrderOpen
		o.ordered += 10
	}
	if o.issued == o.ordered {
		full = micros(o.until)
	}
	rows["work_orders"] = append(rows["work_orders"], []any{
		o.id(), "product " + o.id(), max(o.ordered, 1), o.issued, "device", string(state), micros(o.from), full,
	})
}

// certificate adds one certificate of a device, its key and its event.
func (s *seeding) certificate(rows map[string][][]any, d *seedDevice, k int, at time.Time) {
	var serial [16]byte
	var key [32]byte
	s.fill(serial[:])
	s.fill(key[:])
	serial[0] = serial[0]&0x3f | 0x40 // positive, and of full length
	from, until := at.Truncate(time.Second), at.Add(seedLife).Truncate(time.Second)
	der, sum := s.template.of(serial[:], d.id, from, until)
	number, keySum := hex.EncodeToString(serial[:]), hex.EncodeToString(key[:])
	d.serials = append(d.serials, number)
	status, reason, revokedAt := ca.StatusGood, ca.Reason(""), time.Time{}
	switch d.status {
	case enroll.DeviceHeld:
		status, reason, revokedAt = ca.StatusHeld, ca.ReasonCertificateHold, s.Now.Add(-time.Hour)
	case enroll.DeviceRevoked:
		status, reason, revokedAt = ca.StatusRevoked, ca.ReasonKeyCompromise, d.ended(s.Now)
	case enroll.DeviceRetired:
		status, reason, revokedAt = ca.StatusRevoked, ca.ReasonCessationOfOperation, d.ended(s.Now)
	case enroll.DeviceActive:
		d.notAfter = until
	}
	holder := ca.Holder{Kind: ca.HolderDevice, ID: d.id}
	rows["certificates"] = append(rows["certificates"], []any{
		number, micros(at), sum, "CN=" + d.id, "[]", s.template.issuer, "device", string(holder.Kind), holder.ID,
		string(status), string(reason), micros(revokedAt), micros(from), micros(until), keySum, s.template.cdp, der,
	})
	rows["keys"] = append(rows["keys"], []any{keySum, string(holder.Kind), holder.ID})
	action := "device.enroll"
	if k > 0 {
		action = "device.renew"
	}
	s.event(rows, at, "device:"+d.id, action, "device:"+d.id, map[string]any{"serialNumber": number, "issuer": s.template.issuer, "profile": "device", "workOrder": d.order})
}

// ended returns when a device was revoked or retired.
func (d *seedDevice) ended(now time.Time) time.Time {
	if at := d.seen.Add(30 * 24 * time.Hour); at.Before(now) {
		return at
	}
	return now.Add(-time.Hour)
}

// revocation adds the revocation of a device, which was proven.
func (s *seeding) revocation(rows map[string][][]any, d *seedDevice) {
	at := d.ended(s.Now)
	id, reason, action := s.id(at), ca.ReasonKeyCompromise, "device.revoke"
	if d.status == enroll.DeviceRetired {
		reason, action = ca.ReasonCessationOfOperation, "device.retire"
	}
	steps := []enroll.Step{{Name: "decided", State: enroll.StepDone, At: &at}, {Name: "ledger", State: enroll.StepDone, At: &at}}
	rows["revocations"] = append(rows["revocations"], []any{
		id, d.id, string(reason), "test data", string(enroll.RevocationRecorded), listText(d.serials), listText(steps), "", micros(at), int64(1), int64(1),
	})
	s.event(rows, at, "user:test", action, "device:"+d.id, map[string]any{"reason": reason, "revocation": id})
}

// event adds an audit event, as canonical as any.
func (s *seeding) event(rows map[string][][]any, at time.Time, actor, action, subject string, detail map[string]any) {
	text, err := json.Marshal(detail)
	if err != nil {
		panic(fmt.Sprintf("detail of %s: %v", action, err)) // texts always marshal
	}
	e := enroll.Event{ID: s.id(at), At: at.UTC().Truncate(time.Microsecond), Actor: actor, Action: action, Subject: subject, Detail: text}
	canonical := e.Canonical()
	leaf := enroll.LeafHash(canonical)
	rows["events"] = append(rows["events"], []any{e.ID, micros(e.At), e.Actor, e.Action, e.Subject, canonical, leaf[:]})
}

// id returns a UUIDv7 of a time.
func (s *seeding) id(at time.Time) string {
	var u uuid.UUID
	s.fill(u[:])
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(at.UnixMilli()))
	copy(u[:6], ms[2:])
	u[6], u[8] = u[6]&0x0f|0x70, u[8]&0x3f|0x80
	return u.String()
}

// fill fills octets from the generator.
func (s *seeding) fill(b []byte) {
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], s.random.Uint64())
	}
}
