package enroll

import (
	"context"
	"time"

	"github.com/fleetca/fleetca/ca"
)

// A Store keeps the inventory, the ledger and the audit trail. package store
// implements it on SQLite and PostgreSQL; store/storetest is the contract.
//
// Every method that changes something does so in one durable transaction with
// its Change, or not at all. All are safe for concurrent use, by several
// processes on one database. What is not found is an Error of
// ca.KindNotFound, what exists already KindConflict or the kind named.
type Store interface {
	ca.Recorder
	ca.CRLStore
	CertificateStore
	DeviceStore
	BrokerStore
	OrderStore
	TokenStore
	UserStore
	SessionStore
	RevocationStore
	RotationStore
	EventStore
	IssuerStore
	ProfileStore
	TrustStore
	OverviewStore
	BulkStore
	ManufacturerStore
	// Ping reports whether the store answers and can be written.
	Ping(ctx context.Context) error
	// Tidy deletes what nothing reads any more: CRLs before an issuer's newest
	// scheduled one; idempotency keys whose certificate expired before now, and
	// those of other answers once they are older than keepAnswers; sessions and
	// failures that have expired; API tokens that expired keepAnswers ago, and
	// enrollment tokens that did and whose certificates have expired too; bulk
	// changes that ended, rotations that were planned and not started, and
	// refusals of enrollments that were counted, all keepAnswers ago. It is no
	// change of state: nothing is decided by it.
	Tidy(ctx context.Context, now time.Time, keepAnswers time.Duration) (Tidied, error)
}

// Tidied says how many rows Tidy deleted.
type Tidied struct {
	CRLs, IdempotencyKeys, Sessions, Failures, APITokens, EnrollmentTokens int64
	Bulks, Rotations, Refusals                                             int64
}

// CertificateStore is the ledger.
type CertificateStore interface {
	ca.StatusStore
	Certificates(ctx context.Context, f CertificateFilter, p Page) ([]*ca.Certificate, string, error)
	// RevokeCertificate moves one certificate to the reason's status, or to
	// good for a release (empty reason), guarded by the status it has:
	// ca.KindRevoked, ca.KindNotHeld.
	RevokeCertificate(ctx context.Context, serial ca.SerialNumber, reason ca.Reason, at time.Time, c Change) (*ca.Certificate, error)
	// CheckClaim reads whether Commit would refuse the claim for a key, so
	// that nothing is signed in vain, but for its caller and its profile. A nil
	// answer is no promise.
	CheckClaim(ctx context.Context, claim *Claim, holder ca.Holder, keySHA256 string) error
	// KeyBlocked reports whether a certificate with this key was revoked for keyCompromise.
	KeyBlocked(ctx context.Context, keySHA256 string) (bool, error)
	// LastEventAt returns the time of the newest audit event; zero for none (I7).
	LastEventAt(ctx context.Context) (time.Time, error)
}

// DeviceStore keeps devices.
type DeviceStore interface {
	CreateDevice(ctx context.Context, d Device, c Change) error // KindDuplicateDevice
	Device(ctx context.Context, id string) (*Device, error)     // with its certificates
	// DeviceToRenew returns the device that holds a certificate, with its newest
	// few, which need not have that one among them, and without the certainty that
	// they are of the same moment: the renewal's commit decides. ca.KindNotFound.
	DeviceToRenew(ctx context.Context, serial ca.SerialNumber) (*Device, error)
	Devices(ctx context.Context, f DeviceFilter, p Page) ([]*Device, string, error)
	// HoldDevice puts an active device and its good certificates on hold.
	HoldDevice(ctx context.Context, id string, at time.Time, c Change) error
	// ReleaseDevice makes a held device and its held certificates good again: ca.KindNotHeld.
	ReleaseDevice(ctx context.Context, id string, at time.Time, c Change) error
}

// BrokerStore keeps brokers and what was seen of them.
type BrokerStore interface {
	CreateBroker(ctx context.Context, b Broker, c Change) error // KindConflict
	// Broker returns a broker with the certificate that it should serve, and its
	// newest verification. That is the newest certificate but those that a
	// rotation did not keep, as it failed or was rolled back, and that were not
	// seen to be served since.
	Broker(ctx context.Context, id string) (*Broker, error)
	Brokers(ctx context.Context, p Page) ([]*Broker, string, error)
	// AnnounceDrivers notes that a server drives these brokers now, and no other:
	// what waits for it at one that it drove before is left to any server. It is no
	// change of state.
	AnnounceDrivers(ctx context.Context, server string, brokers []string, at time.Time) error
	// BrokerDrivers returns which server drives which broker, as it was announced
	// last; Live is not set.
	BrokerDrivers(ctx context.Context) ([]BrokerDriver, error)
	// HandOver inserts jobs beside no change: work that is under way is left to
	// another server.
	HandOver(ctx context.Context, jobs []Job) error
	// UpdateBroker replaces url, names and kind.
	UpdateBroker(ctx context.Context, b Broker, c Change) error
	// SaveVerification keeps a report and sets the broker's status by its verdict.
	SaveVerification(ctx context.Context, v Verification, c Change) error
	// ConfirmVerifications notes looks by the schedule that showed what the
	// broker's newest verification did: where that one is the schedule's, too,
	// with the same Outcome and Negative, its At and Report move on and it counts
	// one look more. That is no change of state. The others are returned: they
	// are news, to be saved.
	ConfirmVerifications(ctx context.Context, vs []Verification) (others []Verification, err error)
	Verifications(ctx context.Context, broker string, p Page) ([]*Verification, string, error)
	// VerificationMarks lists the same without their reports.
	VerificationMarks(ctx context.Context, broker string, p Page) ([]VerificationMark, string, error)
	// Verification returns one of a broker's.
	Verification(ctx context.Context, broker, id string) (*Verification, error)
	// NegativeVerifications returns the newest negative one of each broker.
	NegativeVerifications(ctx context.Context) ([]*Verification, error)
	// ForgetVerifications deletes those whose At is before a time, except the
	// newest and the newest negative one of each broker, and returns how many.
	ForgetVerifications(ctx context.Context, before time.Time) (int64, error)
}

// OrderStore keeps work orders and their enrollment tokens.
type OrderStore interface {
	CreateWorkOrder(ctx context.Context, o WorkOrder, c Change) error // KindConflict
	WorkOrder(ctx context.Context, id string) (*WorkOrder, error)
	// ProfiledOrder returns a work order and the newest version of its profile,
	// nil when none is stored.
	ProfiledOrder(ctx context.Context, id string) (*WorkOrder, *StoredProfile, error)
	WorkOrders(ctx context.Context, p Page) ([]*WorkOrder, string, error)
	// UpdateWorkOrder changes what is given: KindConflict for a quantity below
	// what was issued.
	UpdateWorkOrder(ctx context.Context, id string, u WorkOrderUpdate, at time.Time, c Change) (*WorkOrder, error)
	CreateEnrollmentToken(ctx context.Context, t EnrollmentToken, c Change) error
	// OrderProgress returns devices enrolled for a work order in each of some
	// minutes from a time on, the last of them, and what was refused: all but
	// the order itself.
	OrderProgress(ctx context.Context, id string, from time.Time, minutes, units int) (*WorkOrderProgress, error)
	// SaveRefusals adds refused enrollments; of each order it keeps the last
	// few. It is no change of state.
	SaveRefusals(ctx context.Context, all []OrderRefusals) error
	EnrollmentTokenByHash(ctx context.Context, hash []byte) (*EnrollmentToken, error)
	// EnrollmentTokens lists those of a work order, newest first.
	EnrollmentTokens(ctx context.Context, order string, p Page) ([]*EnrollmentToken, string, error)
	// EndEnrollmentToken lets a token of a work order expire at a time, and
	// returns it. KindConflict when it has expired before, or is used up.
	EndEnrollmentToken(ctx context.Context, order, id string, at time.Time, c Change) (*EnrollmentToken, error)
}

// TokenStore keeps API tokens.
type TokenStore interface {
	CreateAPIToken(ctx context.Context, t APIToken, c Change) error
	APITokenByHash(ctx context.Context, hash []byte) (*APIToken, error)
	APIToken(ctx context.Context, id string) (*APIToken, error)
	APITokens(ctx context.Context, p Page) ([]*APIToken, string, error) // newest first
	// DisableAPIToken refuses one that is disabled: KindConflict.
	DisableAPIToken(ctx context.Context, id string, c Change) error
	// SaveTokenUses raises the time of the last use of tokens, by their ID.
	// It is no change of state: nothing is decided by it.
	SaveTokenUses(ctx context.Context, uses map[string]time.Time) error
	// Replayed returns what an earlier commit under the same scope, key and
	// request gave (a *Replay as error value nil), nil for none, or
	// KindIdempotency for another request under the same key.
	Replayed(ctx context.Context, i *Idempotency) (*Replay, error)
}

// UserStore keeps people, and counts their attempts to log in.
type UserStore interface {
	CreateUser(ctx context.Context, u User, c Change) error // KindConflict
	User(ctx context.Context, name string) (*User, error)
	Users(ctx context.Context, p Page) ([]*User, string, error) // by name
	// SetPassword replaces the password hash and the second factor, disables the
	// user's tokens and ends the user's sessions but the one to keep. KindConflict
	// when the hash is not the one that was checked.
	SetPassword(ctx context.Context, n NewPassword, c Change) error
	// SetSecondFactor replaces the second factor, guarded by the password hash
	// that was checked: KindConflict.
	SetSecondFactor(ctx context.Context, f NewSecondFactor, c Change) error
	// SetUserDisabled disables a user, with their tokens and sessions, or enables one,
	// guarded by what they are: KindConflict.
	SetUserDisabled(ctx context.Context, name string, disabled bool, at time.Time, c Change) error
	// SetUserRole gives a user another role and disables the user's tokens,
	// guarded by the role before: KindConflict.
	SetUserRole(ctx context.Context, name string, before, role Role, at time.Time, c Change) error
	// ChargeLogin counts an attempt against every subject, all or none. One
	// that has to wait is a *Later of KindRateLimited.
	ChargeLogin(ctx context.Context, subjects []string, now time.Time, limit LoginLimit) ([]LoginCharge, error)
	// RefundLogin takes an attempt back.
	RefundLogin(ctx context.Context, charges []LoginCharge) error
	// ChargeFailure counts a failure against a subject, and returns when all
	// failures of it are worked off, at one every refill.
	ChargeFailure(ctx context.Context, subject string, now time.Time, refill time.Duration) (time.Time, error)
	// Login stores a login of an enabled user, guarded by the password hash
	// that was checked, the role of what it makes, and the time step of the code:
	// KindConflict.
	Login(ctx context.Context, l UserLogin, c Change) error
}

// A NewPassword is what a password is replaced with.
type NewPassword struct {
	User         string
	Checked      string // hash that the old password matched; empty for an admin's reset, which checks none
	Hash         string
	SecondFactor string // sealed with the new password; empty for none
	KeepSession  string // ID of the session that does not end; empty for none
	At           time.Time
}

// A NewSecondFactor is what a second factor is replaced with.
type NewSecondFactor struct {
	User    string
	Checked string // hash that the password matched
	Sealed  string // empty for none
	Step    int64  // time step of the code that was given
	At      time.Time
}

// SessionStore keeps sessions of the dashboard. Login makes them.
type SessionStore interface {
	// SessionByHash returns a session, expired or not, and its user.
	SessionByHash(ctx context.Context, hash []byte) (*Session, *User, error)
	Session(ctx context.Context, id string) (*Session, error)
	// Sessions lists those of a user, or all for an empty one, that have not
	// expired, newest first.
	Sessions(ctx context.Context, user string, now time.Time, p Page) ([]*Session, string, error)
	// TouchSession raises the time of the last use. It is no change of state.
	TouchSession(ctx context.Context, id string, at time.Time) error
	EndSession(ctx context.Context, id string, c Change) error
}

// RevocationStore keeps revocations as resumable rows.
type RevocationStore interface {
	// RevokeDevice does, in one transaction: every good or held certificate of
	// the device takes the reason's status at r.At, the device follows
	// (revoked, or held for certificateHold), r is stored with their serial
	// numbers, and returned. ca.KindRevoked when the device was revoked before.
	RevokeDevice(ctx context.Context, r Revocation, c Change) (*Revocation, error)
	Revocation(ctx context.Context, id string) (*Revocation, error)
	Revocations(ctx context.Context, device string, p Page) ([]*Revocation, string, error)
	// RetireDevice is RevokeDevice that makes the device retired.
	RetireDevice(ctx context.Context, r Revocation, c Change) (*Revocation, error)
	// SaveRevocation stores r where its version is still the row's, and
	// raises both; KindConflict otherwise.
	SaveRevocation(ctx context.Context, r *Revocation, c Change) error
}

// RotationStore keeps rotations as resumable rows.
type RotationStore interface {
	// CreateRotation refuses a second running rotation of a broker: KindConflict.
	CreateRotation(ctx context.Context, r Rotation, c Change) error
	Rotation(ctx context.Context, id string) (*Rotation, error)
	Rotations(ctx context.Context, broker string, p Page) ([]*Rotation, string, error)
	// SaveRotation is as SaveRevocation. Of one that was rolled back it notes
	// that the broker was last seen with the old certificate.
	SaveRotation(ctx context.Context, r *Rotation, c Change) error
}

// EventStore is the audit trail.
type EventStore interface {
	Events(ctx context.Context, f EventFilter, p Page) ([]*Event, string, error) // newest first
	Event(ctx context.Context, id string) (*Event, error)
	// DeviceEvents lists the events of a device, of its certificates and of its
	// revocations, newest first.
	DeviceEvents(ctx context.Context, device string, p Page) ([]*Event, string, error)
	// NewestEvents returns, for each subject, something that changes with every
	// event about it; "*" stands for all.
	NewestEvents(ctx context.Context, subjects []string) (map[string]string, error)
	// RecordEvent stores a change that has no row of its own, such as a start.
	RecordEvent(ctx context.Context, c Change) error
}

// IssuerStore keeps issuers.
type IssuerStore interface {
	// CreateIssuers stores the first issuers and their first CRLs, in one
	// transaction; KindConflict when the store has any.
	CreateIssuers(ctx context.Context, issuers []ca.Issuer, crls []*ca.CRL, c Change) error
	// AddIssuers stores further ones with their first CRLs, and cross-certificates
	// of roots among them, in one transaction; KindConflict when an id is taken.
	AddIssuers(ctx context.Context, issuers []ca.Issuer, crls []*ca.CRL, cross []ca.CrossCertificate, c Change) error
	// SetIssuerState moves an issuer from one of some states to another:
	// KindConflict when it is in none of them, and for an active one whose root is
	// not in the trust bundle. A root that becomes active makes the one that was
	// retired: there is one, whoever else activates another.
	SetIssuerState(ctx context.Context, id string, from []ca.IssuerState, to ca.IssuerState, c Change) error
	// ImportCRL stores a CRL that was signed elsewhere: KindConflict unless its
	// number is above every one of the issuer's.
	ImportCRL(ctx context.Context, crl *ca.CRL, c Change) error
	Issuers(ctx context.Context) ([]ca.Issuer, error)
	// SetStatusURLs replaces the issuer's status URLs.
	SetStatusURLs(ctx context.Context, issuerID string, urls []string, c Change) error
	// SetCRLShards sets over how many CRLs the issuer's new certificates are
	// spread. The most there ever were is kept.
	SetCRLShards(ctx context.Context, issuerID string, shards int, c Change) error
}

// ProfileStore keeps the versions of profiles that are not built in.
type ProfileStore interface {
	// Profile returns the newest version of a profile; nil when none is stored.
	Profile(ctx context.Context, name string) (*StoredProfile, error)
	// Profiles returns the newest version of each, by name.
	Profiles(ctx context.Context) ([]*StoredProfile, error)
	// ProfileVersions returns versions of a profile, newest first.
	ProfileVersions(ctx context.Context, name string, limit int) ([]*StoredProfile, error)
	// ProfileVersion returns one version; nil when it is not stored.
	ProfileVersion(ctx context.Context, name string, version int64) (*StoredProfile, error)
	// CreateProfileVersion stores a version where the one before it is the
	// newest, or builtIn when none is stored: KindConflict otherwise. A profile
	// that was not there must not be one too many.
	CreateProfileVersion(ctx context.Context, p StoredProfile, builtIn int64, most int, c Change) error
	// ProfileUse counts at most certificates of the newest, and orders.
	ProfileUse(ctx context.Context, name string, now time.Time, certificates, orders int) (ProfileUse, error)
}

// TrustStore keeps the trust bundles, and who confirmed which.
type TrustStore interface {
	// TrustGenerations returns every trust bundle that there ever was, oldest
	// first. The first is made with the first issuers.
	TrustGenerations(ctx context.Context) ([]TrustGeneration, error)
	// SaveTrustGeneration stores the one after the newest: KindConflict for any
	// other, and for one without a root that is active or has an active issuer
	// below it. Roots in it that are created become published.
	SaveTrustGeneration(ctx context.Context, g TrustGeneration, c Change) error
	CrossCertificates(ctx context.Context) ([]ca.CrossCertificate, error)
	// AddCrossCertificates replaces those of the same root by the same other.
	AddCrossCertificates(ctx context.Context, all []ca.CrossCertificate, c Change) error
	// AcknowledgeTrust notes that a device or a broker has a generation:
	// KindConflict when it confirmed that one before, or a later one.
	AcknowledgeTrust(ctx context.Context, holder ca.Holder, generation int64, c Change) error
	// TrustCounts counts devices that are active or held, and names some of those
	// that have not confirmed a generation: active ones first, the most backward of
	// them before the others.
	TrustCounts(ctx context.Context, generation int64, limit int) (TrustCounts, error)
	// TrustStragglers are the names of TrustCounts, without its counts, which read
	// an index from end to end.
	TrustStragglers(ctx context.Context, generation int64, limit int) ([]string, error)
	// HoldersUnder counts devices that are active or held and have confirmed a
	// generation, and names some of them and all brokers, whose newest certificate
	// is one of some issuers and has not expired.
	HoldersUnder(ctx context.Context, issuers []string, confirmed int64, now time.Time, limit int) (Holders, error)
	// Approval returns who allowed a step; nil for nobody.
	Approval(ctx context.Context, root string, step RolloverStep) (*Approval, error)
	SaveApproval(ctx context.Context, a Approval, c Change) error
}

// OverviewStore reads what pages begin with, at once whatever the size of the
// fleet: by an index, at most limit rows, or as it was counted in the background.
type OverviewStore interface {
	BrokerLooks(ctx context.Context, limit int) ([]BrokerLook, error)
	// NewestCRLs returns the newest CRL of every scope, without its bytes.
	NewestCRLs(ctx context.Context) ([]*ca.CRL, error)
	// OpenRevocations returns those that run or are unproven, oldest first.
	OpenRevocations(ctx context.Context, limit int) ([]*Revocation, error)
	// FullWorkOrders returns open ones without quota, longest since first.
	FullWorkOrders(ctx context.Context, limit int) ([]*WorkOrder, error)
	// ExpiringDevices counts devices that hold their last good certificate
	// from a time on and before another, up to limit.
	ExpiringDevices(ctx context.Context, from, to time.Time, limit int) (int, error)
	// CountFleet counts what Figures, TrustFigures and Forecast return, unless that was done
	// less than a few times as long ago as it takes. It is no change of state.
	CountFleet(ctx context.Context, now time.Time) error
	Figures(ctx context.Context) (*Figures, error)           // the newest counted; zero for none
	TrustFigures(ctx context.Context) (*TrustFigures, error) // the newest counted; zero for none
	Forecast(ctx context.Context) (*Forecast, error)         // the newest counted; zero for none
}

// BulkStore keeps changes of many devices as resumable rows.
type BulkStore interface {
	// CreateBulk stores a running change with the devices it is about.
	CreateBulk(ctx context.Context, b BulkResult, devices []string, c Change) error
	Bulk(ctx context.Context, id string) (*BulkResult, error)
	Bulks(ctx context.Context, p Page) ([]*BulkResult, string, error) // newest first
	// DeviceStatuses returns the status of each device that there is.
	DeviceStatuses(ctx context.Context, ids []string) (map[string]DeviceStatus, error)
	// BulkWaiting returns devices that are neither done nor failed, by id.
	BulkWaiting(ctx context.Context, id string, limit int) ([]string, error)
	// SaveBulk says what became of devices: an empty message for done. Those
	// of which that is said already stay. When none waits any more the change
	// is done, as of a time.
	SaveBulk(ctx context.Context, id string, outcomes map[string]string, at time.Time, c Change) error
}

// ManufacturerStore keeps authorities of others, and which of their
// certificates enroll which devices.
type ManufacturerStore interface {
	CreateManufacturer(ctx context.Context, m Manufacturer, c Change) error // KindConflict
	Manufacturer(ctx context.Context, id string) (*Manufacturer, error)
	Manufacturers(ctx context.Context, p Page) ([]*Manufacturer, string, error) // by id
	// SetManufacturer replaces State and Reenroll, guarded by what they were:
	// KindConflict.
	SetManufacturer(ctx context.Context, before, after Manufacturer, c Change) error
	// AddManifest adds entries, all or none, and returns how many; those that are
	// there just so are passed over, and where all are nothing is changed.
	// KindConflict for a device or a certificate that is there otherwise,
	// ca.KindNotFound for a work order that is not.
	AddManifest(ctx context.Context, manufacturer string, entries []ManifestEntry, c Change) (int, error)
	// RemoveManifest removes the entries of devices, all or none: ca.KindNotFound.
	RemoveManifest(ctx context.Context, manufacturer string, devices []string, c Change) error
	Manifest(ctx context.Context, manufacturer string, p Page) ([]*ManifestEntry, string, error) // by device
	ManifestOf(ctx context.Context, manufacturer, device string) (*ManifestEntry, error)
	// ManifestEntries returns those that have anything in common with what a
	// certificate is known by.
	ManifestEntries(ctx context.Context, manufacturer string, known ManifestEntry) ([]*ManifestEntry, error)
}

// A Page asks for a part of a listing by keyset paging: at most Limit items
// (1 to 500) after Cursor, which an earlier answer gave (empty: from the
// start). A cursor that was not given so is an Error of ca.KindMalformed.
type Page struct {
	Limit  int
	Cursor string
}

// A CertificateFilter narrows a listing of certificates; empty fields do not.
type CertificateFilter struct {
	Status  ca.Status // expired: good and past notAfter
	Device  string
	Broker  string
	Profile string
	Issuer  string
}

// An EventFilter narrows the audit trail; empty fields do not.
type EventFilter struct {
	Actor        string
	Action       string
	ActionPrefix string // beginning of the action, such as "device."
	Subject      string
	From, To     time.Time // from this time on, and before that one
}
